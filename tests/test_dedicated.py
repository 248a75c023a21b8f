"""One's own model answers or defers; its tag is seen by nobody. Real sockets on both sides."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from routewright.drive import replay
from routewright.errors import BadInput, UpstreamError
from routewright.strategies.dedicated import Dedicated
from routewright.types import Answer, Query
from test_gateway import create, raw, served
from upstream import Upstream, asked, begin, drop, event, send

LARGE = "the large one says so"


def policy(**options: Any) -> dict[str, Any]:
    chosen = {"expert": "small", "then": ["large"], **options}
    return {"policies": {"own": {"strategy": "dedicated", "options": chosen}}}


def speaking(*pieces: str, finish: str | None = "stop"):
    """A stream of exactly these pieces; without `finish` the connection breaks after them."""

    async def fault(upstream, request, body):
        reply = await begin(request)
        for piece in pieces:
            await send(reply, {"content": piece})
        if finish is None:
            assert request.transport is not None
            request.transport.close()
            return reply
        await send(reply, {}, finish_reason=finish)
        usage = {"prompt_tokens": 5, "completion_tokens": len(pieces)}
        await event(reply, {"choices": [], "usage": usage})
        await reply.write(b"data: [DONE]\n\n")
        return reply

    return fault


def streamed(small: Upstream, large: Upstream, **options: Any):
    """The pieces that reach the client, and who they are from."""

    async def work(client):
        stream = await client.chat.completions.create(
            model="routewright/own", messages=asked(), stream=True
        )
        return [chunk async for chunk in stream]

    chunks = served(work, small, large, traits=({"retries": 0},) * 2, **policy(**options))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return [text for text in texts if text], {chunk.model for chunk in chunks}


@pytest.mark.parametrize("tag", ["<DEFER>", "<GPT4>", " \n<DEFER>", "<DEFER> the answer is 4"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tag_is_answered_by_the_fallback(tag, stream):
    small, large = Upstream(says=tag), Upstream(says=LARGE)
    if stream:
        texts, models = streamed(small, large)
        assert ("".join(texts), models) == (LARGE, {"large"})
    else:
        reply = served(raw(), small, large, **policy())
        assert reply.parse().choices[0].message.content == LARGE
        assert reply.headers["x-routewright-path"] == "small:deferred>large"
    assert small.requests == large.requests == 1


@pytest.mark.parametrize(
    "pieces",
    [
        list("<DEFER>"),
        ["", " ", "<", "DEF", "ER>"],
        ["<DEFER>", " 4", " or", " 5"],
        ["<DEFER> four"],
        ["<DEF", "ER>\n\nfour", " more"],
    ],
    ids=repr,
)
def test_a_tag_in_pieces_never_leaks(pieces):
    small = Upstream(faults=[speaking(*pieces)])
    texts, models = streamed(small, Upstream(says=LARGE))
    assert ("".join(texts), models) == (LARGE, {"large"})


@pytest.mark.parametrize(
    "pieces",
    [
        ["four", " <DEFER>", " is what I might say"],
        ["<", "div>", "four</div>"],
        ["<DEF", "INITION> four"],
        ["The tag", " is <", "DEFER>"],
        ["<DEF"],
    ],
    ids=repr,
)
def test_what_does_not_open_with_the_tag_is_an_answer(pieces):
    small, large = Upstream(faults=[speaking(*pieces)]), Upstream(says=LARGE)
    texts, models = streamed(small, large)
    assert ("".join(texts), models) == ("".join(pieces), {"small"})
    assert large.requests == 0


def test_an_answer_is_held_back_no_longer_than_it_takes_to_be_clear():
    texts, _ = streamed(Upstream(faults=[speaking("<", "b", ">", "four")]), Upstream())
    assert texts == ["<", "b", ">", "four"]


def test_a_stream_cut_off_within_the_tag_is_deferred():
    small = Upstream(faults=[speaking("<DEF", finish="length")])
    assert "".join(streamed(small, Upstream(says=LARGE))[0]) == LARGE


def test_a_stream_that_breaks_while_it_is_held_back_is_taken_over():
    small = Upstream(faults=[speaking("<DEF", finish=None)])
    assert "".join(streamed(small, Upstream(says=LARGE))[0]) == LARGE


def test_calls_of_tools_pass():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    small, large = Upstream(says="", message=message), Upstream()
    reply = served(create("routewright/own"), small, large, **policy())
    assert reply.choices[0].message.tool_calls[0].function.name == "add"
    assert large.requests == 0


def test_the_fallback_may_write_the_tag_itself():
    texts, _ = streamed(Upstream(says="<DEFER>"), Upstream(says="<DEFER> is a tag"))
    assert "".join(texts) == "<DEFER> is a tag"


def test_another_tag_can_be_named():
    small, large = Upstream(says="<ASK>"), Upstream(says=LARGE)
    assert "".join(streamed(small, large, tags=["<ASK>"])[0]) == LARGE
    texts, _ = streamed(Upstream(says="<DEFER>"), Upstream(says=LARGE), tags=["<ASK>"])
    assert texts == ["<DEFER>"]


def obeys(body):
    return "my best guess" if body.get("bad_words") else "<DEFER>"


@pytest.mark.parametrize("stream", [False, True])
def test_without_the_fallback_the_model_does_its_best(stream):
    small, large = Upstream(says=obeys), Upstream(faults=[drop] * 9)
    if stream:
        assert "".join(streamed(small, large)[0]) == "my best guess"
    else:
        reply = served(raw(), small, large, traits=({"retries": 0},) * 2, **policy())
        assert reply.parse().choices[0].message.content == "my best guess"
        assert reply.headers["x-routewright-path"] == "small:deferred>large:failed>small"
    assert small.bodies[-1]["bad_words"] == ["<DEFER>", "<GPT4>"]


@pytest.mark.parametrize("says", [obeys, "<DEFER>"])
def test_without_the_fallback_it_is_an_error_if_so_configured_or_if_the_model_insists(says):
    small, large = Upstream(says=says), Upstream(faults=[drop] * 9)
    options = {"best_effort": False} if says is obeys else {}
    with pytest.raises(openai.InternalServerError, match="expert 'large' failed"):
        served(create(), small, large, traits=({"retries": 0},) * 2, **policy(**options))


def test_a_model_that_is_down_is_replaced():
    small, large = Upstream(faults=[drop] * 9), Upstream(says=LARGE)
    reply = served(create(), small, large, traits=({"retries": 0},) * 2, **policy())
    assert reply.model == "large"


def test_ownership_is_counted_and_shown():
    small = Upstream(says=lambda body: "four" if "easy" in str(body) else "<DEFER>")

    async def work(client):
        for word in ("easy", "easy", "hard", "easy"):
            await create(messages=asked(f"something {word}"))(client)
        await create("small", messages=asked("something easy, past the policy"))(client)
        url = str(client.base_url).replace("/v1/", "/metrics")
        return await client.get("/models", cast_to=dict), (await client._client.get(url)).text

    models, metrics = served(work, small, Upstream(), **policy())
    told = {entry["id"]: entry for entry in models["data"]}
    assert (told["small"]["asked"], told["small"]["ownership"]) == (5, 0.8)
    assert "ownership" not in told["large"]
    assert 'routewright_answers_total{expert="small",policy="own"} 3.0' in metrics
    assert 'routewright_answers_total{expert="small",policy="direct"} 1.0' in metrics
    asks = 'routewright_asks_total{expert="small",kind="answer",outcome='
    assert f'{asks}"ok"}} 4.0' in metrics
    assert f'{asks}"deferred"}} 1.0' in metrics


def test_replay_defers_too_and_counts_both():
    record = {"small": Answer("small", "<DEFER>", cost=1.0), "large": Answer("large", cost=9.0)}
    decision = replay(Dedicated("small", ("large",)), Query.of("hi"), record)
    assert (decision.answer.expert, decision.cost) == ("large", 10.0)
    alone = {
        "small": Answer("small", "<DEFER>"),
        "large": Answer("large", status="failed", reason="is down"),
    }
    with pytest.raises(UpstreamError, match="large"):
        replay(Dedicated("small", ("large",)), Query.of("hi"), alone)


@pytest.mark.parametrize("options", [{"then": ()}, {"tags": ()}, {"tags": ("",)}])
def test_nobody_to_defer_to_is_refused(options):
    with pytest.raises(BadInput, match="strategy 'dedicated' needs"):
        Dedicated(**{"expert": "small", "then": ("large",), **options})
