"""The client and the providers, against real servers on the loopback."""

import asyncio
import json
import traceback
from contextlib import aclosing
from dataclasses import replace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from routewright import prompts
from routewright.errors import (
    NotAdmissible,
    StreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from routewright.experts.client import Client
from routewright.experts.spending import bound, capped, input_bound
from routewright.sandbox.model import TinyLM
from routewright.types import Answer, Ask, Expert, Query
from upstream import (
    Busy,
    Upstream,
    asked,
    break_off,
    drop,
    expert,
    hang,
    running,
    stall,
    status,
)

HI = Query.of("hi there my friend")


def ask(upstream, query=HI, wanted=None, **traits):
    """What one ask gives."""

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("small", **traits))
            async with Client([who]) as client:
                return await client.ask(wanted or Ask("small"), query)

    return asyncio.run(run())


def stream(upstream, query=HI, **traits):
    """The texts of a stream, and its answer."""

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("small", **traits))
            async with Client([who]) as client:
                return [piece async for piece in client.stream(Ask("small"), query)]

    *pieces, answer = asyncio.run(run())
    return [piece.text for piece in pieces], answer


def test_an_answer_is_paid_for_by_the_tokens_that_the_upstream_counted():
    answer = ask(Upstream(says="one two three"))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("one two three", 4, 3)
    assert answer.cost == pytest.approx((4 * 1.0 + 3 * 2.0) / 1e6)
    assert not answer.estimated


@pytest.mark.parametrize("code", [201, 203])
def test_an_answer_with_another_status_of_success_is_one(code):
    body = {"choices": [{"message": {"content": "made"}, "finish_reason": "stop"}]}

    async def made(upstream, request, asked):
        return web.json_response(body, status=code)

    assert ask(Upstream(faults=[made])).text == "made"
    assert stream(Upstream(faults=[made]))[1].text == "made"


@pytest.mark.parametrize("code", [202, 204])
def test_success_without_an_answer_is_a_failure(code):
    async def empty(upstream, request, asked):
        return web.Response(status=code)

    with pytest.raises(UpstreamError):
        ask(Upstream(faults=[empty]), retries=0)
    with pytest.raises(UpstreamError):
        stream(Upstream(faults=[empty]), retries=0)


def test_without_usage_tokens_are_estimated_and_said_to_be():
    answer = ask(Upstream(says="x" * 10, usage=False))
    assert (answer.input_tokens, answer.output_tokens) == (5, 3)
    assert answer.estimated


def test_a_stream_gives_its_pieces_and_then_the_whole_answer():
    texts, answer = stream(Upstream(says="one two three"))
    assert "".join(texts) == answer.text == "one two three"
    assert len(texts) > 3
    assert answer.cost == pytest.approx((4 * 1.0 + 3 * 2.0) / 1e6)


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), status(408), drop])
@pytest.mark.parametrize("how", [ask, stream])
def test_what_may_pass_is_tried_again(how, fault):
    upstream = Upstream(faults=[fault])
    how(upstream)
    assert upstream.requests == 2


@pytest.mark.parametrize("how", [ask, stream])
def test_a_refusal_is_not_tried_again(how):
    upstream = Upstream(faults=[status(400, "no such parameter")])
    with pytest.raises(UpstreamRefused, match="no such parameter"):
        how(upstream)
    assert upstream.requests == 1


def test_tries_are_bounded():
    upstream = Upstream(faults=[status(500)] * 9)
    with pytest.raises(UpstreamError, match="500"):
        ask(upstream, retries=1)
    assert upstream.requests == 2


def test_retry_after_is_obeyed():
    busy = Busy(0.6)
    upstream = Upstream(says=lambda body: "rested" if busy.over else "too early", faults=[busy])
    assert ask(upstream).text == "rested"


@pytest.mark.parametrize("limit", [{}, {"max_latency": 8.0}])
def test_a_retry_after_beyond_the_time_there_is_is_not_waited_for(limit):
    """After nine seconds it would answer."""
    upstream = Upstream(faults=[status(429, Retry_After="9")])
    with pytest.raises(UpstreamError, match="429") as failure:
        ask(upstream, wanted=Ask("small", **limit), timeout=60 if limit else 8)
    assert failure.value.retry_after == 9
    assert upstream.requests == 1


def test_a_failed_try_that_names_its_usage_is_paid_for_and_not_repeated():
    async def costly(upstream, request, body):
        return web.json_response({"usage": {"prompt_tokens": 1_000_000}}, status=500)

    upstream = Upstream(faults=[costly])
    with pytest.raises(UpstreamError) as failure:
        ask(upstream)
    assert failure.value.cost == pytest.approx(1.0)
    assert upstream.requests == 1


def test_nobody_listening_is_an_upstream_error():
    async def run():
        async with Client([Expert("gone", base_url="http://127.0.0.1:9/v1", retries=0)]) as client:
            await client.ask(Ask("gone"), HI)

    with pytest.raises(UpstreamError, match="connection failed"):
        asyncio.run(run())


@pytest.mark.parametrize("how", [ask, stream])
def test_an_expert_that_hangs_times_out(how):
    with pytest.raises(UpstreamTimeout):
        how(Upstream(faults=[hang]), timeout=0.2)


def test_a_stream_without_a_first_byte_times_out():
    with pytest.raises(UpstreamTimeout, match="no first byte"):
        stream(Upstream(faults=[hang]), silence=0.2)


@pytest.mark.parametrize("fault", [break_off, stall])
def test_a_stream_that_breaks_is_never_tried_again(fault):
    upstream = Upstream(faults=[fault])
    with pytest.raises(StreamBroken) as failure:
        stream(upstream, silence=0.2)
    assert upstream.requests == 1
    assert failure.value.cost == pytest.approx((5 * 1.0 + 1 * 2.0) / 1e6)


NONSENSE = [
    "not json",
    "[]",
    '{"choices": []}',
    '{"error": "sorry"}',
    '{"choices": [{"message": "hi"}]}',
]


@pytest.mark.parametrize("reply", NONSENSE)
def test_nonsense_with_status_200_is_a_failure(reply):
    with pytest.raises(UpstreamError):
        ask(Upstream(faults=[saying(reply)]), retries=0)


@pytest.mark.parametrize(
    "chunk",
    [*NONSENSE[:2], NONSENSE[3], '{"choices": [{"delta": {"tool_calls": [{"index": 9999}]}}]}'],
)
def test_a_stream_of_nonsense_is_a_failure(chunk):
    with pytest.raises(UpstreamError):
        stream(Upstream(faults=[saying(f"data: {chunk}\n\n")]), retries=0)


def test_an_upstream_cannot_pay_us():
    usage = {"prompt_tokens": -5, "completion_tokens": 1}
    reply = {"choices": [{"message": {"content": "hi"}}], "usage": usage}
    answer = ask(Upstream(faults=[saying(json.dumps(reply))]))
    assert (answer.cost, answer.estimated) == (pytest.approx(7e-6), True)


def saying(text):
    async def fault(upstream, request, body):
        return web.Response(text=text)

    return fault


def test_keys_stay_out_of_errors_and_reprs():
    key = "my-secret-123456"
    upstream = Upstream(faults=[status(401, f"bad key {key}, or sk-se**56")])
    with pytest.raises(UpstreamRefused) as failure:
        ask(upstream, api_key=key)
    assert upstream.headers[0]["Authorization"] == f"Bearer {key}"
    told = f"{failure.value.reason} {''.join(traceback.format_exception(failure.value))}"
    assert "secret" not in told
    assert "sk-se" not in told
    assert "secret" not in repr(Expert("small", api_key=key))


def test_a_redirect_is_not_followed():
    elsewhere = Upstream()

    async def run():
        async with running(elsewhere):
            away = status(307, Location=f"{elsewhere.url}/chat/completions")
            upstream = Upstream(faults=[away])
            async with running(upstream), Client([expert(upstream.expert("small"))]) as client:
                await client.ask(Ask("small"), HI)

    with pytest.raises(UpstreamRefused, match="307"):
        asyncio.run(run())
    assert elsewhere.requests == 0


def test_the_config_has_the_last_word_on_options():
    upstream = Upstream()
    ask(upstream, replace(HI, options={"temperature": 1, "top_p": 0.5}), options={"temperature": 0})
    assert (upstream.bodies[0]["temperature"], upstream.bodies[0]["top_p"]) == (0, 0.5)


# --- money ---------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1e-4, 1.2e-4, 5e-4])
def test_max_cost_is_never_exceeded(budget):
    answer = ask(Upstream(says="word " * 1000), wanted=Ask("small", max_cost=budget))
    assert 0 < answer.cost <= budget


def test_money_for_no_token_at_all_is_not_admissible():
    upstream = Upstream()
    with pytest.raises(NotAdmissible, match="max_cost"):
        ask(upstream, wanted=Ask("small", max_cost=1e-6))
    assert upstream.requests == 0


def test_the_clients_own_smaller_limit_stays():
    body = {"messages": asked("hi"), "max_completion_tokens": 3}
    assert capped(body, Expert("e", output_per_mtok=1.0), 1.0)["max_completion_tokens"] == 3


def test_bytes_bound_the_tokens_of_text_that_is_not_english():
    dear = Expert("e", input_per_mtok=1e6)  # a dollar per token
    with pytest.raises(NotAdmissible):
        capped({"messages": asked("汉字" * 10)}, dear, 59.0)


def test_a_cancelled_stream_is_billed_for_what_was_heard():
    upstream = Upstream(says="x" * 40 + " y")

    async def run():
        async with running(upstream), Client([expert(upstream.expert("small"))]) as client:
            wanted = Ask("small")
            async with aclosing(client.stream(wanted, HI)) as pieces:
                while not (await anext(pieces)).text:
                    pass
            return client.bill(wanted, HI, 1.0)

    bill = asyncio.run(run())
    assert (bill.input_tokens, bill.output_tokens, bill.estimated) == (5, 10, True)


# --- the sandbox ---------------------------------------------------------------------------

ABACUS = Expert("abacus", provider="sandbox", input_per_mtok=1.0, output_per_mtok=2.0)


def in_process(work):
    async def run():
        async with Client([ABACUS]) as client:
            return await work(client)

    return asyncio.run(run())


def test_a_sandbox_model_answers_what_it_says_itself():
    own = TinyLM.load("abacus").generate("What is 12 + 7?")
    answer = in_process(lambda client: client.ask(Ask("abacus"), Query.of("What is 12 + 7?")))
    assert answer.text == own.text
    assert answer.cost == pytest.approx((own.prompt_tokens + 2 * own.completion_tokens) / 1e6)


def test_a_sandbox_model_streams_the_same():
    async def work(client):
        query = Query.of("What is 12 + 7?")
        return [piece async for piece in client.stream(Ask("abacus"), query)]

    *pieces, answer = in_process(work)
    own = TinyLM.load("abacus").generate("What is 12 + 7?")
    assert "".join(piece.text for piece in pieces) == answer.text == own.text
    assert pieces[-1].finish_reason == answer.finish_reason == own.finish_reason


def test_a_sandbox_model_doubts_by_degrees():
    wanted = Ask("abacus", "verify", of=Answer("abacus", "5"))
    check = in_process(lambda client: client.ask(wanted, Query.of("What is 2 + 3?")))
    assert 0 < check.confidence < 1


def test_a_sandbox_model_refuses_what_it_cannot_read():
    with pytest.raises(UpstreamRefused, match="tokens"):
        in_process(lambda client: client.ask(Ask("abacus"), Query.of("1 " * 5000)))


def test_sandbox_models_leave_the_loop_free():
    async def work(client):
        answers = [client.ask(Ask("abacus"), Query.of(f"What is {n} + 456?")) for n in range(100)]
        task = asyncio.gather(*answers)
        ticks = 0
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks

    assert in_process(work) > 5  # were the loop blocked, all would be done after two turns


# --- verification --------------------------------------------------------------------------


def test_a_verification_shows_question_and_answer_and_reads_the_verdict():
    upstream = Upstream(says="Incorrect.")
    wanted = Ask("small", "verify", of=Answer("small", "five"))
    answer = ask(upstream, Query.of("two and two?"), wanted)
    sent = upstream.bodies[0]["messages"][0]["content"]
    assert "Question: two and two?\nAnswer: five" in sent
    assert (answer.kind, answer.confidence) == ("verify", 0.0)


def test_an_expert_may_have_its_own_verification_prompt():
    upstream = Upstream(says="yes")
    wanted = Ask("small", "verify", of=Answer("small", "4"))
    ask(upstream, Query.of("2+2"), wanted, verify_prompt='Is {answer} right for {question}? {"a"}')
    assert upstream.bodies[0]["messages"][0]["content"] == 'Is 4 right for 2+2? {"a"}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("correct", 1.0),
        ("Verdict: **Incorrect**", 0.0),
        ("It is not wrong", 1.0),
        ("First it seems correct, but no", 0.0),
        ("The AI answer is correct.", 1.0),
        ("I cannot tell", None),
        ("", None),
    ],
)
def test_verdicts_are_read_tolerantly(text, says):
    assert prompts.verdict(text) == says


def test_a_one_word_verdict_is_weighed_by_its_probability():
    assert prompts.confidence(Answer("e", "yes", logprobs=(-0.5,))) == pytest.approx(0.6065, 1e-3)
    assert prompts.confidence(Answer("e", "no", logprobs=(-0.5,))) == pytest.approx(0.3935, 1e-3)


def test_a_question_that_names_a_placeholder_is_not_filled_in():
    prompt = prompts.verify(Query.of("what is {answer}?"), Answer("e", "a word"))
    assert "Question: what is {answer}?" in prompt


@pytest.mark.parametrize("size", range(1, 400, 7))
def test_money_for_exactly_one_token_covers_it(size):
    """Whatever floats make of input + one token − input."""
    expert = Expert("small", input_per_mtok=0.15, output_per_mtok=0.6)
    body = {"messages": [{"role": "user", "content": "x" * size}]}
    least = expert.highest_price(input_bound(body), 0) + expert.price(0, 1)
    assert capped(body, expert, least)["max_tokens"] == 1


@given(tokens=st.integers(1, 1_000_000), price=st.floats(0.01, 1000), size=st.integers(1, 500))
def test_money_for_a_request_leaves_its_limit_as_it_is(tokens: int, price: float, size: int):
    body = {"messages": asked("x" * size), "max_tokens": tokens}
    expert = Expert("e", input_per_mtok=price / 3, output_per_mtok=price)
    assert capped(body, expert, bound(body, expert))["max_tokens"] == tokens
