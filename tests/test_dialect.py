"""A request is written in the fields that the expert's endpoint knows."""

import openai
import pytest

from routewright.errors import UpstreamRefused
from routewright.experts.dialect import Dialect, dialect_of
from routewright.types import Expert
from test_gateway import create, pieces, served
from upstream import Upstream, asked, status

DEVELOPER = [{"role": "developer", "content": "Be brief."}, *asked()]
OLD, NEW = "max_tokens", "max_completion_tokens"


def sent(upstream=None, how=create, traits=None, times=1, **request):
    """The bodies that an upstream gets."""
    upstream = upstream or Upstream()

    async def work(client):
        for _ in range(times):
            await how(**request)(client)

    served(work, upstream, traits=(traits or {},))
    return upstream.bodies


def refusing(field, message, code=400, **more):
    """An upstream's fault as long as a request has a field, or a message of that role."""

    def refuses(body):
        return field in body or field in {message["role"] for message in body["messages"]}

    async def fault(upstream, request, body):
        if refuses(body):
            return await status(code, message)(upstream, request, body)
        return await upstream.answer(request, body)

    return fault


# --- the output limit ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [OLD, NEW])
@pytest.mark.parametrize(
    ("traits", "field"),
    [
        ({}, OLD),
        ({"model": "o3-mini"}, NEW),
        ({"model": "openai/gpt-5.1"}, NEW),
        ({"model": "gpt-4o"}, OLD),
        ({"model": "gpt-oss-20b"}, OLD),
        ({"max_tokens_field": NEW}, NEW),
        ({"model": "o3-mini", "max_tokens_field": OLD}, OLD),
    ],
)
def test_the_output_limit_has_the_name_that_the_endpoint_knows(given, traits, field):
    (body,) = sent(traits=traits, **{given: 7})
    assert {name: body[name] for name in (OLD, NEW) if name in body} == {field: 7}


@pytest.mark.parametrize(("traits", "field"), [({}, OLD), ({"model": "gpt-5"}, NEW)])
def test_a_cap_of_max_cost_has_that_name_too(traits, field):
    (body,) = sent(traits=traits, extra_body={"routewright": {"max_cost": 1e-3}})
    assert (OLD in body, NEW in body) == (field == OLD, field == NEW)
    assert 0 < body[field] <= 500


def test_of_two_limits_the_smaller_one_holds():
    assert sent(max_tokens=9, max_completion_tokens=5)[0][OLD] == 5
    (body,) = sent(max_tokens=9, max_completion_tokens=5, traits={"options": {OLD: 3}})
    assert (body[OLD], NEW in body) == (3, False)


def test_an_endpoint_at_openai_knows_the_new_name():
    assert dialect_of(Expert("gpt-4o")) == Dialect(NEW, developer_role=True)
    host = Expert("gpt-4o", base_url="https://api.openai.com.example.com/v1")
    assert dialect_of(host).limit_field == OLD


USE_NEW = (
    "Unsupported parameter: 'max_tokens' is not supported with this model."
    " Use 'max_completion_tokens' instead."
)


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize(
    ("traits", "refused", "message", "code"),
    [
        ({}, OLD, USE_NEW, 400),
        ({"model": "gpt-5"}, NEW, "Unrecognized request argument: max_completion_tokens", 400),
        ({"model": "gpt-5"}, NEW, "max_completion_tokens: Extra inputs are not permitted", 422),
    ],
)
def test_a_refusal_teaches_the_name_for_all_later_requests(how, traits, refused, message, code):
    fault = refusing(refused, message, code)
    bodies = sent(Upstream(faults=[fault] * 9), how, traits, times=3, max_tokens=7)
    assert [refused in body for body in bodies] == [True, False, False, False]
    other = NEW if refused == OLD else OLD
    assert [body.get(other) for body in bodies] == [None, 7, 7, 7]


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({}, "max_tokens is too large: 7. This model supports at most 4 completion tokens"),
        ({}, "max_tokens must be at most 4"),
        ({"max_tokens_field": OLD}, USE_NEW),
        ({}, "temperature is not supported with this model"),
    ],
)
def test_a_refusal_of_something_else_is_told_at_once(traits, message):
    upstream = Upstream(faults=[status(400, message)])
    with pytest.raises(openai.BadRequestError):
        sent(upstream, traits=traits, max_tokens=7)
    assert upstream.requests == 1


def test_an_endpoint_that_refuses_both_names_says_so():
    upstream = Upstream(faults=[status(400, USE_NEW)] * 9)
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
        sent(upstream, max_tokens=7)
    assert upstream.requests == 2


# --- roles ---------------------------------------------------------------------------------


def roles(body):
    return [message["role"] for message in body["messages"]]


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize(
    ("traits", "role"),
    [
        ({}, "system"),
        ({"model": "deepseek-chat"}, "system"),
        ({"model": "gpt-4o"}, "developer"),
        ({"model": "openai/o3"}, "developer"),
        ({"developer_role": True}, "developer"),
        ({"model": "gpt-4o", "developer_role": False}, "system"),
    ],
)
def test_developer_is_system_where_it_is_not_known(how, traits, role):
    (body,) = sent(how=how, traits=traits, messages=DEVELOPER)
    assert roles(body) == [role, "user"]
    assert body["messages"][0]["content"] == "Be brief."


@pytest.mark.parametrize(
    "message",
    [
        "messages[0].role: unknown variant `developer`, expected one of `system`, `user`",
        "Invalid value: 'developer'. Supported values are: 'system' and 'user'.",
        "Input should be 'system', 'user' or 'assistant'",
        "Unexpected message role.",
    ],
)
def test_a_refused_role_is_system_from_then_on(message):
    fault = refusing("developer", f"{message} (role)")
    upstream = Upstream(faults=[fault] * 9)
    bodies = sent(upstream, traits={"model": "gpt-4o"}, times=2, messages=DEVELOPER)
    assert [roles(body)[0] for body in bodies] == ["developer", "system", "system"]


def test_a_request_may_need_several_translations():
    async def picky(upstream, request, body):
        for field, message in ((OLD, USE_NEW), ("metadata", "metadata is not supported")):
            if field in body:
                return await status(400, message)(upstream, request, body)
        if "developer" in roles(body):
            return await status(400, "unknown role developer")(upstream, request, body)
        return await upstream.answer(request, body)

    request = {"messages": DEVELOPER, "max_tokens": 7, "metadata": {"team": "a"}}
    traits = {"model": "gpt-4o"}
    bodies = sent(Upstream(faults=[picky] * 9), traits=traits, times=2, **request)
    assert len(bodies) == 5, "three lessons, and none of them twice"
    assert bodies[-1].keys() == {"model", "messages", NEW}


# --- metadata ------------------------------------------------------------------------------


def test_a_clients_own_metadata_passes_without_our_limits():
    metadata = {"team": "a", "user_id": "7", "max_cost": "0.01", "domain": "maths"}
    assert sent(metadata=metadata)[0]["metadata"] == {"team": "a", "user_id": "7"}
    assert "metadata" not in sent(metadata={"max_cost": "0.01"})[0]
    assert "metadata" not in sent(traits={"options": {"metadata": None}}, metadata=metadata)[0]


ONLY_STORED = "The 'metadata' parameter is only allowed when 'store' is enabled."


def test_metadata_that_an_endpoint_takes_with_store_only_goes_there_with_store():
    async def fault(upstream, request, body):
        if "metadata" in body and not body.get("store"):
            return await status(400, ONLY_STORED)(upstream, request, body)
        return await upstream.answer(request, body)

    upstream = Upstream(faults=[fault] * 9)
    bodies = sent(upstream, times=2, metadata={"team": "a"})
    assert ["metadata" in body for body in bodies] == [True, False, False]
    (body,) = sent(Upstream(faults=[fault]), metadata={"team": "a"}, store=True)
    assert body["metadata"] == {"team": "a"}


def test_metadata_costs_nothing():
    limits = {"routewright": {"max_cost": 5e-4}}
    sent(metadata={"notes": "word " * 500}, extra_body=limits)


def test_a_lesson_is_learnt_once():
    refusal = UpstreamRefused("a", USE_NEW, status=400)
    body = {"messages": asked(), "max_tokens": 7}
    lesson = Dialect().taught(refusal, body)
    assert lesson is not None
    assert lesson.limit_field == NEW
    assert lesson.taught(UpstreamRefused("a", f"unsupported: {NEW}", status=400), body) is None
