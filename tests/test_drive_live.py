"""The live loop, with the real client and real servers: the same plans that `replay` runs."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from routewright import drive
from routewright.errors import DeadlineExceeded, NotAdmissible, StreamBroken, UpstreamError
from routewright.experts.client import Client
from routewright.experts.limits import recorded
from routewright.experts.providers.openai import Openai
from routewright.strategies.cascade import Cascade
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Ask, Committee, Decision, Delta, Query
from upstream import Upstream, break_off, drop, expert, hang, once_all, running, status

HI = Query.of("hi there my friend")
NAMES = ("a", "b", "c")


def live(
    strategy,
    *upstreams,
    query=HI,
    stream=False,
    spent=None,
    stop_after=None,
    providers=None,
    own=(),
    **traits,
):
    """The deltas' texts and the decision; `own` are traits of single experts, by name."""

    async def run():
        async with running(*upstreams):
            experts = [
                expert(upstream.expert(name, **{"retries": 0, **traits, **dict(own).get(name, {})}))
                for name, upstream in zip(NAMES, upstreams, strict=False)
            ]
            async with Client(experts, providers) as client:
                found = drive.live(strategy, query, experts, client, stream=stream, spent=spent)
                async with aclosing(found) as events:
                    said = []
                    async for event in events:
                        said.append(event)
                        if len(said) == stop_after:
                            break
                    return said

    *pieces, decision = asyncio.run(run())
    return [piece.text for piece in pieces], decision


@dataclass(frozen=True)
class Panel:
    """Asks everybody at once and takes the first that arrives."""

    experts: tuple[str, ...] = NAMES
    enough: int | None = None

    def plan(self, query):
        stop = None if self.enough is None else (lambda seen: len(seen) >= self.enough)
        answers = yield Committee([Ask(name) for name in self.experts], enough=stop)
        return Decision(next(answer for answer in answers if answer.status == "ok"))


def test_asks_of_a_committee_run_side_by_side():
    """None of the three is answered before all have been asked."""
    together = once_all(3)
    _, decision = live(Panel(), *(Upstream(faults=[together]) for _ in NAMES))
    assert decision.path == "a>b>c"


def test_latecomers_are_cancelled_and_their_cost_is_counted():
    """The others answer once the latecomer has been asked, too; it never does."""
    together = once_all(3)

    async def late(upstream, request, body):
        await together(upstream, request, body)
        return await hang(upstream, request, body)

    slow, quick = Upstream(faults=[late]), [Upstream(faults=[together]) for _ in range(2)]
    _, decision = live(Panel(enough=2), quick[0], slow, quick[1])
    assert decision.path == "a>b:cancelled>c"
    assert decision.spent[1].cost >= 5 / 1e6  # its whole input
    assert decision.cost == pytest.approx(sum(answer.cost for answer in decision.spent))
    assert slow.cancelled == 1


def test_a_member_that_fails_does_not_stop_the_others():
    _, decision = live(Panel(), Upstream(faults=[drop]), Upstream(), Upstream())
    assert decision.path == "a:failed>b>c"


def test_a_member_that_defers_has_not_arrived():
    @dataclass(frozen=True)
    class Owned:
        def plan(self, query):
            asks = [Ask(name, unless=("<DEFER>",)) for name in ("a", "b", "c")]
            answers = yield Committee(asks, enough=lambda seen: len(seen) >= 2)
            return Decision(next(answer for answer in answers if answer.status == "ok"))

    upstreams = Upstream(says="<DEFER>"), Upstream(says="four"), Upstream(says="<DEFER> 5")
    _, decision = live(Owned(), *upstreams)
    assert decision.path == "a:deferred>b>c:deferred"
    assert decision.answer.text == "four"
    record = {answer.expert: Answer(answer.expert, answer.text) for answer in decision.spent}
    assert drive.replay(Owned(), HI, record).path == decision.path


def test_a_committee_shares_the_money_of_its_query():
    query = Query.of("hi", max_cost=1e-3)
    _, decision = live(Panel(), *(Upstream(says="word " * 2000) for _ in NAMES), query=query)
    assert 5e-4 < decision.cost <= 1e-3


class Notes(Client):
    """A client that notes what it is asked."""

    def __init__(self, experts):
        super().__init__(experts)
        self.asked = []

    async def ask(self, ask, query):
        self.asked.append((ask, query))
        return await super().ask(ask, query)

    async def stream(self, ask, query):
        self.asked.append((ask, query))
        async with aclosing(super().stream(ask, query)) as pieces:
            async for piece in pieces:
                yield piece


@dataclass(frozen=True)
class PanelThenLast:
    """Two side by side, then a third."""

    def plan(self, query):
        yield Ask("a"), Ask("b")
        return Decision((yield Ask("c", final=True)))


@pytest.mark.parametrize("stream", [False, True])
def test_every_ask_carries_its_own_limits_and_the_query_stays_the_clients(stream):
    query = Query.of("hi", max_cost=3e-3, max_latency=30.0)

    async def run():
        upstreams = [Upstream() for _ in NAMES]
        async with running(*upstreams):
            dear = {"input_per_mtok": 2.0, "output_per_mtok": 4.0}
            entries = [
                upstream.expert(name, **(dear if name == "b" else {}))
                for name, upstream in zip(NAMES, upstreams, strict=True)
            ]
            experts = [expert(entry) for entry in entries]
            async with Notes(experts) as client:
                events = drive.live(PanelThenLast(), query, experts, client, stream=stream)
                async with aclosing(events):
                    *_, decision = [event async for event in events]
                return client.asked, decision

    asked, decision = asyncio.run(run())
    limits = [ask.max_cost for ask, _ in asked]
    assert limits[:2] == pytest.approx([1e-3, 2e-3]), "shared by their experts' prices"
    first, second, _ = decision.spent
    assert limits[2] == pytest.approx(3e-3 - first.cost - second.cost)
    seconds = [ask.max_latency for ask, _ in asked]
    assert 30.0 >= seconds[0] == seconds[1] >= seconds[2] > 0
    assert {(q.max_cost, q.max_latency) for _, q in asked} == {(3e-3, 30.0)}


def test_an_ask_without_limits_has_none():
    async def run():
        upstream = Upstream()
        async with running(upstream):
            who = expert(upstream.expert("a"))
            async with Notes([who]) as client:
                await drive.decide(Fixed("a"), HI, [who], client)
                return client.asked

    ((ask, _),) = asyncio.run(run())
    assert (ask.max_cost, ask.max_latency) == (None, None)


def test_a_cascade_never_spends_more_than_its_query_allows():
    query = Query.of("hi", max_cost=2e-3)
    wordy = [Upstream(says="incorrect " * 2000) for _ in NAMES]
    _, decision = live(Cascade(NAMES), *wordy, query=query)
    assert decision.cost <= 2e-3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", [Fixed("a"), Panel(("a", "b")), Cascade(("a", "b"))])
def test_the_deadline_cancels_what_is_under_way(strategy, stream):
    """Nobody ever answers: without it the experts would be given up after a minute."""
    slow = Upstream(faults=[hang])
    query = Query.of("hi", max_latency=0.2)
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s") as late:
        live(strategy, slow, Upstream(faults=[hang]), query=query, stream=stream)
    assert slow.cancelled == slow.requests
    assert late.value.spent[0].status == "cancelled"
    assert late.value.spent[0].cost > 0


@dataclass(frozen=True)
class Twice:
    """Two experts, then a third, which alone decides."""

    together: bool = False

    def plan(self, query):
        yield (Ask("a"), Ask("b"))
        if self.together:
            (answer,) = yield (Ask("c"),)
        else:
            answer = yield Ask("c")
        return Decision(answer)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("strategy", "slow"),
    [
        (Panel(NAMES), "b"),
        (Cascade(NAMES), "b"),
        (Fallback(Cascade(NAMES), ("c",)), "b"),
        (Twice(), "b"),
        (Twice(), "c"),
        (Twice(together=True), "c"),
    ],
)
def test_at_the_deadline_the_answers_that_have_arrived_decide(strategy, slow, stream):
    upstreams = {name: Upstream(says="incorrect") for name in NAMES}
    upstreams[slow].faults = [hang]
    query = Query.of("hi", max_latency=1.0)
    texts, decision = live(strategy, *upstreams.values(), query=query, stream=stream)
    assert decision.answer.text == "incorrect"
    assert decision.answer.expert != slow
    assert upstreams[slow].cancelled == 1
    late = [answer for answer in decision.spent if answer.expert == slow]
    assert [answer.status for answer in late] == ["cancelled"]
    assert late[0].cost > 0
    assert not stream or texts == ["incorrect"]


@pytest.mark.parametrize(("max_cost", "most"), [(None, 10_000), (8e-5, 7)])
def test_what_a_deadline_cancels_is_billed_as_far_as_it_may_have_come(max_cost, most):
    """Its whole input, and 50 tokens a second; but no more than `max_cost` allowed it to write."""
    query = Query.of("hi there my friend", max_latency=0.4, max_cost=max_cost)
    with pytest.raises(DeadlineExceeded) as late:
        live(Fixed("a"), Upstream(faults=[hang]), query=query)
    (bill,) = late.value.spent
    assert bill.output_tokens == min(most, int(50 * bill.latency))
    assert bill.cost == pytest.approx((bill.input_tokens + 2 * bill.output_tokens) / 1e6)
    assert bill.input_tokens == 5
    assert bill.estimated


@dataclass(frozen=True)
class Afterwards:
    """The faster of two, and then a third, who may spend what the slower one has left, too."""

    def plan(self, query):
        yield Committee([Ask("a"), Ask("b")], enough=lambda seen: True)
        return Decision((yield Ask("c")))


def test_what_a_cancelled_member_has_cost_is_no_longer_there_to_be_spent():
    dear = {"input_per_mtok": 1000.0}
    third = Upstream(says="word " * 50_000)
    query = Query.of("hi there my friend", max_cost=0.2)
    upstreams = Upstream(), Upstream(faults=[hang]), third
    _, decision = live(Afterwards(), *upstreams, query=query, own={"b": dear})
    first, cancelled, answer = decision.spent
    assert (cancelled.expert, cancelled.status) == ("b", "cancelled")
    assert cancelled.cost >= 0.005
    left = query.max_cost - first.cost - cancelled.cost
    assert left - 1e-4 < third.bodies[0]["max_tokens"] * 2 / 1e6 <= left
    assert answer.cost <= left
    assert decision.cost <= query.max_cost


def test_a_final_ask_is_streamed():
    texts, decision = live(Fixed("a"), Upstream(says="one two three"), stream=True)
    assert "".join(texts) == decision.answer.text == "one two three"
    assert len(texts) > 2


def test_an_answer_that_was_looked_at_comes_as_one_piece():
    wanted = Cascade(("a", "b"), trust=0.5)
    texts, decision = live(wanted, Upstream(says="correct"), Upstream(), stream=True)
    assert texts == ["correct"]
    assert decision.path == "a>verify:1.00"


def test_a_client_that_stops_reading_cancels_the_expert_and_is_accounted_for():
    spent = []
    upstream = Upstream(says="word " * 50, delay=0.02)
    live(Fixed("a"), upstream, stream=True, spent=spent, stop_after=5)
    assert spent[0].status == "cancelled"
    assert (spent[0].input_tokens, spent[0].output_tokens > 0) == (5, True)
    assert upstream.finished == 0


def test_a_fallback_steps_in_before_the_first_byte():
    wanted = Fallback(Fixed("a"), ("b",))
    texts, decision = live(wanted, Upstream(faults=[drop]), Upstream(says="hi"), stream=True)
    assert "".join(texts) == "hi"
    assert decision.path == "a:failed>b"


def test_nobody_steps_in_after_the_first_byte():
    second = Upstream()
    with pytest.raises(StreamBroken) as broken:
        live(Fallback(Fixed("a"), ("b",)), Upstream(faults=[break_off]), second, stream=True)
    assert second.requests == 0
    assert broken.value.spent[0].cost > 0


def test_nobody_steps_in_for_a_provider_that_calls_a_broken_stream_a_failure():
    class Sloppy(Openai):
        async def stream(self, call):
            yield Delta(call.expert.name, "half", {"content": "half"})
            raise UpstreamError(call.expert.name, "out of memory")

    second = Upstream()
    with pytest.raises(StreamBroken, match="out of memory"):
        live(
            Fallback(Fixed("a"), ("b",)),
            *(Upstream(), second),
            stream=True,
            providers={"openai": Sloppy()},
        )
    assert second.requests == 0


def test_an_inadmissible_ask_is_never_sent():
    upstream = Upstream()
    with pytest.raises(NotAdmissible):
        live(Panel(("a", "b")), upstream, Upstream(), query=Query.of("hi", data_class="internal"))
    assert upstream.requests == 0


def doubting(body):
    """Answers; as a verifier it doubts answers to odd questions."""
    prompt = body["messages"][0]["content"]
    if "Verdict:" not in prompt:
        return f"an answer to {prompt}"
    return "incorrect" if "odd" in prompt.rsplit("Question:", 1)[1] else "correct"


STRATEGIES = [Cascade(("a", "b")), Fixed("b"), Panel(("a", "b")), Fallback(Fixed("c"), ("a",))]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("text", ["an even question", "an odd question"])
def test_replaying_what_was_recorded_decides_as_live_did(strategy, text):
    query = Query.of(text)
    upstreams = Upstream(says=doubting), Upstream(says="wise"), Upstream(faults=[status(500)])
    _, was = live(strategy, *upstreams, query=query)
    record = {(answer.expert, answer.kind): answer for answer in was.spent}
    again = drive.replay(strategy, query, record, [recorded(name) for name in NAMES])
    assert (again.answer, again.path, again.because) == (was.answer, was.path, was.because)
    assert again.cost == was.cost


def test_without_an_answer_what_was_paid_is_still_told():
    with pytest.raises(UpstreamError) as failure:
        live(Fixed("a"), Upstream(faults=[hang]), timeout=0.2)
    assert [answer.reason for answer in failure.value.spent] == ["it took too long or fell silent"]
