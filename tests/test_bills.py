"""An ask that was sent and got no answer is paid for: in headers, log, metrics and `max_cost`."""

import asyncio
import json
import logging
from contextlib import aclosing, suppress

import openai
import pytest
from aiohttp import web

from routewright import drive
from routewright.data.journal import Journal
from routewright.errors import DeadlineExceeded, NotAdmissible, StreamBroken, UpstreamError
from routewright.experts.client import Client
from routewright.experts.ledger import Ledger
from routewright.strategies.cascade import Cascade
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Ask, Query
from test_drive_live import Panel, live
from test_gateway import raw, served
from test_gateway_hostile import reply
from upstream import Upstream, break_off, drop, expert, hang, running, status

HI = Query.of("hi there my friend")  # five tokens
BACKED = {"default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}}
HASTY = {"retries": 0, "timeout": 0.2}  # for an upstream that never answers
PATIENT = {"retries": 0, "timeout": 600}
GARBAGE = reply(b"<h1>hello</h1>", 200, "text/html")
CUT = reply(b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n', kind="text/event-stream")


async def with_usage(upstream, request, body):
    usage = {"prompt_tokens": 1000, "completion_tokens": 500}
    return web.json_response({"usage": usage, "error": {"message": "sorry"}}, status=500)


def failed(fault, stream=False, **traits):
    """What an ask that meets a fault leaves behind: its failed answer."""
    upstream, haste = Upstream(faults=[fault]), HASTY if fault is hang else PATIENT
    with pytest.raises((UpstreamError, DeadlineExceeded)) as failure:
        live(Fixed("a"), upstream, stream=stream, **{**haste, **traits})
    (answer,) = failure.value.spent
    assert answer.status == "failed"
    assert failure.value.cost == answer.cost
    return answer


# --- one ask -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [hang, drop, GARBAGE])
def test_an_ask_that_was_sent_and_not_answered_is_billed_at_an_estimate(fault, stream):
    answer = failed(fault, stream)
    assert answer.estimated
    assert answer.cost >= 5 / 1e6, "at least its whole input"
    if fault is hang:
        assert answer.cost >= (5 + 2 * 9) / 1e6, "and what it may have written meanwhile"


def test_a_stream_that_breaks_before_its_first_word_is_billed():
    assert failed(CUT, stream=True).cost >= 5 / 1e6


def test_a_stream_that_breaks_is_billed_for_its_words():
    upstream = Upstream(faults=[break_off])
    with pytest.raises(StreamBroken) as failure:
        live(Fixed("a"), upstream, stream=True, **PATIENT)
    (answer,) = failure.value.spent
    assert answer.estimated
    assert answer.cost == pytest.approx((5 * 1.0 + 1 * 2.0) / 1e6)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [400, 401, 404, 429, 500, 502, 503])
def test_an_error_status_is_free(code, stream):
    answer = failed(status(code), stream)
    assert (answer.cost, answer.estimated) == (0.0, False)


@pytest.mark.parametrize("body", [b'{"error": {"message": "sorry"}}', b'{"error": "sorry"}'])
def test_an_error_in_the_place_of_an_answer_is_free(body):
    assert failed(reply(body)).cost == 0.0


def test_an_error_status_that_reports_its_usage_costs_that():
    answer = failed(with_usage)
    assert (answer.cost, answer.estimated) == (pytest.approx(2e-3), False)


def test_what_was_never_sent_is_free():
    assert failed(None, base_url="http://127.0.0.1:9/v1").cost == 0.0


# --- retries -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_costs_its_failed_tries_too(stream):
    upstream = Upstream(faults=[drop, status(500), drop])
    _, decision = live(Fixed("a"), upstream, stream=stream, retries=3)
    assert upstream.requests == 4
    own = (4 + 2 * 2) / 1e6  # "hello there", as the upstream counts
    assert decision.cost >= own + 2 * 5 / 1e6
    assert decision.answer.estimated
    assert decision.estimated_cost == decision.cost


def test_an_answer_without_failed_tries_is_no_estimate():
    _, decision = live(Fixed("a"), Upstream(faults=[status(500)]), retries=1)
    assert (decision.estimated_cost, decision.answer.estimated) == (0.0, False)


def test_a_timeout_is_not_tried_again():
    upstream = Upstream(faults=[hang] * 3)
    with pytest.raises(UpstreamError):
        live(Fixed("a"), upstream, timeout=0.2, retries=2)
    assert upstream.requests == 1


def test_a_failure_costs_all_its_tries():
    assert failed(drop, retries=0).cost < 2 * 5 / 1e6
    upstream = Upstream(faults=[drop] * 3)
    with pytest.raises(UpstreamError) as failure:
        live(Fixed("a"), upstream, retries=2)
    assert failure.value.cost >= 3 * 5 / 1e6


def test_a_try_that_is_cancelled_costs_the_tries_before_it_as_well():
    async def late(upstream, request, body):
        return await hang(upstream, request, body)

    upstream = Upstream(faults=[drop, late])
    query = Query.of("hi there my friend", max_latency=1.0)
    with pytest.raises(DeadlineExceeded) as failure:
        live(Fixed("a"), upstream, query=query, retries=1)
    assert upstream.requests == 2
    (bill,) = failure.value.spent
    assert bill.cost >= 2 * 5 / 1e6
    assert bill.estimated


@pytest.mark.parametrize("counted", ["all", "the first"])
def test_choices_that_a_server_does_not_count_are_estimated(counted):
    """llama.cpp reports the tokens of the first of `n` choices alone."""
    verdict = "The answer is consistent with the question: correct"  # eight words, 51 characters

    async def counts_the_first(upstream, request, body):
        message = {"role": "assistant", "content": verdict}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(8)]
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return web.json_response({"id": "up", "choices": choices, "usage": usage})

    faults = [counts_the_first] if counted == "the first" else []
    upstream = Upstream(says=verdict, many=True, faults=faults)
    check = Ask("a", "verify", of=Answer("a", "4"), samples=8)

    async def run():
        async with running(upstream), Client([expert(upstream.expert("a"))]) as client:
            return await client.ask(check, HI)

    answer = asyncio.run(run())
    assert (upstream.requests, len(answer.choices)) == (1, 8)
    if counted == "all":
        assert (answer.output_tokens, answer.estimated) == (8 * 8, False)
    else:
        assert (answer.output_tokens, answer.estimated) == (10 + 7 * 13, True)
        assert answer.cost == pytest.approx((100 + 2 * 101) / 1e6)


def test_verifications_cost_their_failed_verdicts_too():
    """The endpoint gives one verdict, though three are requested; one of the others is lost."""
    upstream = Upstream(says="correct", faults=[None, drop])
    check = Ask("a", "verify", of=Answer("a", "4"), samples=3)

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("a", retries=0))
            async with Client([who]) as client:
                return await client.ask(check, HI)

    answer = asyncio.run(run())
    sent = [len(str(body["messages"][0]["content"]).split()) for body in upstream.bodies]
    assert len(sent) == 3
    assert answer.cost > (sent[0] + sent[1] + 2 * 2) / 1e6
    assert answer.estimated
    assert answer.confidence == 1.0


def test_verdicts_that_arrived_count_even_if_all_others_fail():
    upstream = Upstream(says="correct", faults=[None, drop, drop])
    check = Ask("a", "verify", of=Answer("a", "4"), samples=3)

    async def run():
        async with (
            running(upstream),
            Client([expert(upstream.expert("a", retries=0))]) as client,
        ):
            return await client.ask(check, HI)

    assert asyncio.run(run()).confidence == 1.0


def test_a_committee_counts_members_that_failed_and_those_that_were_late():
    query = Query.of("hi there my friend", max_latency=0.5)
    upstreams = Upstream(faults=[drop]), Upstream(faults=[hang]), Upstream()
    _, decision = live(Panel(), *upstreams, query=query)
    dropped, late, answer = decision.spent
    assert [one.status for one in decision.spent] == ["failed", "cancelled", "ok"]
    assert dropped.cost >= 5 / 1e6
    assert late.cost >= 5 / 1e6
    assert (dropped.estimated, late.estimated, answer.estimated) == (True, True, False)


def test_nothing_of_an_ask_stays_behind():
    upstream = Upstream(faults=[None, drop, status(500), hang, hang])

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("a", **HASTY))
            async with Client([who]) as client:
                for _ in range(4):
                    with suppress(UpstreamError):
                        await drive.decide(Fixed("a"), HI, [who], client)
                for deadline in (0.1, None):
                    query = Query.of("hi there", max_latency=deadline)
                    events = drive.live(Fixed("a"), query, [who], client, stream=True)
                    with suppress(DeadlineExceeded, UpstreamError):
                        async with aclosing(events):
                            async for _ in events:
                                break
                return client._tries

    assert asyncio.run(run()) == {}


# --- max_cost ------------------------------------------------------------------------------


def charged(body):
    """What a provider that writes as much as it may, and charges for it, charges."""
    sent = len(json.dumps(body["messages"]))
    return (sent + 2 * body["max_tokens"]) / 1e6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [hang, drop, GARBAGE])
@pytest.mark.parametrize("max_cost", [2e-4, 1e-3, 1e-2])
def test_max_cost_holds_over_retries_and_fallbacks(fault, stream, max_cost):
    upstreams = [Upstream(faults=[fault] * 9) for _ in range(3)]
    query = Query.of("hi there my friend", max_cost=max_cost)
    with pytest.raises((UpstreamError, NotAdmissible)) as failure:
        live(
            Fallback(Fixed("a"), ("b", "c")),
            *upstreams,
            query=query,
            stream=stream,
            retries=2,
            timeout=0.2 if fault is hang else 60,
        )
    bodies = [body for upstream in upstreams for body in upstream.bodies]
    bill = sum(answer.cost for answer in failure.value.spent)
    assert bill <= max_cost
    if fault is hang:  # an upstream that still writes when nobody waits any more
        assert sum(charged(body) for body in bodies) <= max_cost
        assert bill >= sum(charged(body) for body in bodies)


def test_after_a_failure_the_next_ask_gets_what_is_left():
    """The client's own limit leaves money for the fallback."""
    lost, healthy = Upstream(faults=[hang]), Upstream(says="word " * 1000)
    query = Query.of("hi there my friend", max_cost=1e-3, options={"max_tokens": 100})
    own = {"a": {"timeout": 0.2}}
    _, decision = live(Fallback(Fixed("a"), ("b",)), lost, healthy, query=query, own=own)
    assert decision.path == "a:failed>b"
    first = decision.spent[0]
    assert first.cost >= 2 * 100 / 1e6, "what it may have written at most"
    assert decision.cost <= 1e-3
    assert healthy.bodies[0]["max_tokens"] * 2 / 1e6 <= 1e-3 - first.cost


def test_a_free_expert_may_answer_when_the_money_is_gone():
    free = {"input_per_mtok": 0, "output_per_mtok": 0}
    query = Query.of("hi there my friend", max_cost=2e-4)
    own = {"a": {"timeout": 0.2}, "b": free}
    _, decision = live(
        Fallback(Fixed("a"), ("b",)), Upstream(faults=[hang]), Upstream(), query=query, own=own
    )
    assert decision.path == "a:failed>b"


def test_a_cascade_whose_verification_is_lost_keeps_max_cost():
    upstream = Upstream(says="word " * 20, faults=[None, hang])
    query = Query.of("hi there my friend", max_cost=2e-3, options={"max_tokens": 50})
    own = {"a": {"timeout": 0.3}}
    _, decision = live(Cascade(("a", "b")), upstream, Upstream(), query=query, own=own)
    assert decision.path == "a>verify:failed>b" or decision.path.startswith("a>a:failed")
    assert decision.estimated_cost > 0
    assert decision.cost <= 2e-3


# --- what the gateway says -----------------------------------------------------------------


def metric(text, name):
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return {line.split('expert="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


def test_headers_body_log_and_metrics_tell_of_a_lost_ask(caplog):
    caplog.set_level(logging.INFO, "routewright")

    async def work(client):
        answer = await raw()(client)
        metrics = await client._client.get(str(client.base_url).replace("/v1/", "/metrics"))
        return answer, metrics.text

    traits = ({**HASTY}, {})
    answer, metrics = served(
        work, Upstream(faults=[hang]), Upstream(), traits=traits, policies=BACKED
    )
    own, estimate = 9e-6, (5 + 2 * 9) / 1e6  # "hello there", and the lost ask
    told = float(answer.headers["x-routewright-cost"])
    estimated = float(answer.headers["x-routewright-cost-estimated"])
    assert answer.headers["x-routewright-path"] == "small:failed>large"
    assert told >= own + estimate
    assert told == pytest.approx(own + estimated)
    completion = answer.parse()
    assert completion.usage.cost == pytest.approx(told)
    assert completion.routewright["cost"] == pytest.approx(told)
    assert completion.routewright["estimated"] == pytest.approx(estimated)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "routewright.gateway.completion"]
    log = json.loads(line)
    assert (log["cost"], log["estimated"]) == (pytest.approx(told), pytest.approx(estimated))
    assert metric(metrics, "routewright_cost_usd_total") == {
        "small": pytest.approx(estimated),
        "large": pytest.approx(own),
    }
    assert metric(metrics, "routewright_estimated_cost_usd_total") == {
        "small": pytest.approx(estimated)
    }


def test_an_error_tells_what_it_cost():
    with pytest.raises(openai.APIStatusError) as failure:
        served(raw(), Upstream(faults=[hang]), traits=(HASTY,))
    assert failure.value.status_code == 504
    assert float(failure.value.response.headers["x-routewright-cost"]) >= 5 / 1e6


def test_what_the_upstream_counted_is_no_estimate():
    answer = served(raw(), Upstream())
    assert "x-routewright-cost-estimated" not in answer.headers
    assert "estimated" not in answer.parse().routewright


# --- the ledger ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [hang, drop, GARBAGE])
def test_the_ledger_reserves_the_upper_bound_of_a_lost_ask(fault, tmp_path):
    upstream = Upstream(faults=[fault])
    query = Query.of("hi there my friend", options={"max_tokens": 1000})

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("a", **HASTY))
            with Journal(tmp_path / "journal") as journal:
                async with Ledger([who], journal, budget=1.0) as ledger:
                    bound = ledger.client.bound(Ask("a"), query)
                    with pytest.raises(UpstreamError):
                        await ledger.ask(Ask("a"), query)
                    return bound, ledger.account

    bound, account = asyncio.run(run())
    assert (account.spent, account.unsure) == (0.0, bound)


def test_the_bound_of_several_verdicts_covers_each():
    check = Ask("a", "verify", of=Answer("a", "4"), samples=5)
    single = Ask("a", "verify", of=Answer("a", "4"))
    who = expert({"name": "a", "base_url": "http://h/v1", "output_per_mtok": 1.0})
    client = Client([who])
    assert client.bound(check, HI) == pytest.approx(5 * client.bound(single, HI))
