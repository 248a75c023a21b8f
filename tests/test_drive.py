"""Replay: what a plan does with recorded answers, failures, limits and committees."""

from __future__ import annotations

import pytest

from routewright.drive import replay
from routewright.errors import NoAdmissibleExpert, NotAdmissible, UpstreamError
from routewright.strategies.cascade import Cascade
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.types import Answer, Ask, Committee, Decision, Expert, Query

ASKED = Query.of("hi")
RECORD = {
    "small": Answer("small", "4", cost=1.0, latency=0.2),
    ("small", "verify"): Answer("small", kind="verify", confidence=0.31, cost=0.5),
    "middle": Answer("middle", "4", cost=2.0, latency=0.1),
    "large": Answer("large", "5", cost=10.0, latency=0.9),
}


class Vote:
    def __init__(self, *experts: str, needed: int) -> None:
        self.asks = Committee(map(Ask, experts), enough=lambda answers: len(answers) >= needed)

    def plan(self, query):
        answers = yield self.asks
        arrived = [answer for answer in answers if answer.status == "ok"]
        return Decision(arrived[0], because=f"{len(arrived)} arrived")


def test_a_cascade_climbs_while_in_doubt_and_everything_is_paid_for():
    decision = replay(Cascade(("small", "large"), trust=0.7), ASKED, RECORD)
    assert decision.path == "small>verify:0.31>large"
    assert decision.cost == 11.5
    assert decision.answer.text == "5"


def test_a_cascade_stops_where_it_trusts():
    decision = replay(Cascade(("small", "large"), trust=0.3), ASKED, RECORD)
    assert decision.path == "small>verify:0.31"
    assert "31 % sure" in decision.because


def test_a_cascade_whose_top_fails_gives_its_best_effort():
    record = {**RECORD, "large": Answer("large", status="failed", reason="is down")}
    decision = replay(Cascade(("small", "large"), trust=0.7), ASKED, record)
    assert decision.answer.text == "4"
    assert "best effort" in decision.because


def test_fallback_asks_a_cheaper_one_where_the_wanted_is_too_dear():
    large, small = Expert("large", input_per_mtok=1e6), Expert("small", input_per_mtok=1.0)
    query = Query.of("hi", max_cost=0.5)
    wanted = Fallback(Fixed("large"), ("large", "small"))
    decision = replay(wanted, query, RECORD, [large, small])
    assert decision.path == "small"
    assert decision.because == "large may not be asked, small stepped in"
    with pytest.raises(NotAdmissible, match="large"):
        replay(Fallback(Fixed("large"), ("large",)), query, RECORD, [large, small])


def test_fallback_leaves_out_who_failed_and_counts_the_failed_try():
    record = {**RECORD, "small": Answer("small", status="failed", reason="is down", cost=0.25)}
    decision = replay(Fallback(Fixed("small"), ("small", "large")), ASKED, record)
    assert decision.path == "small:failed>large"
    assert decision.cost == 10.25


def test_a_committee_that_has_enough_marks_latecomers_and_pays_them():
    decision = replay(Vote("small", "middle", "large", needed=2), ASKED, RECORD)
    assert decision.because == "2 arrived"
    assert decision.path == "small>middle>large:cancelled"
    assert decision.cost == 13.0


def test_a_missing_record_is_an_expert_that_failed():
    with pytest.raises(UpstreamError, match="no recorded answer"):
        replay(Fixed("small"), ASKED, {}, experts=[Expert("small")])


def test_limits_are_checked_in_replay_too():
    experts = [Expert("small", data_classes=frozenset({"restricted"})), Expert("large")]
    secret = Query.of("my diagnosis", data_class="restricted")
    with pytest.raises(NotAdmissible, match="'large' may not be asked: serves data class public"):
        replay(Fixed("large"), secret, RECORD, experts)
    decision = replay(Fixed("small"), secret, RECORD, experts)
    assert decision.rejected == {"large": "serves data class public, not restricted"}


def test_when_nobody_may_answer_every_reason_is_given():
    experts = [
        Expert("small"),
        Expert("large", region="us", data_classes=frozenset({"restricted"})),
    ]
    secret = Query.of("x", data_class="restricted", region="eu")
    with pytest.raises(
        NoAdmissibleExpert, match=r"small: serves data class public.*large: runs in"
    ):
        replay(Fixed("small"), secret, RECORD, experts)


@pytest.mark.parametrize(
    ("expert", "query", "reason"),
    [
        (Expert("e", context_window=10), Query.of("x" * 400), "window of 10 tokens"),
        (
            Expert("e", capabilities=frozenset()),
            Query.of("x", needs=frozenset({"tools"})),
            "lacks tools",
        ),
        (Expert("e"), Query.of("x", region="eu"), "runs in region unknown"),
        (Expert("e", input_per_mtok=1e6), Query.of("x" * 40, max_cost=0.1), "costs at least"),
    ],
)
def test_each_limit_says_what_it_is(expert, query, reason):
    with pytest.raises(NotAdmissible, match=reason):
        replay(Fixed("e"), query, {"e": Answer("e")}, [expert])


def test_money_is_bounded_over_the_whole_way():
    experts = [Expert("small", input_per_mtok=1.0), Expert("large", input_per_mtok=1.0)]
    bounded = Query.of("hi", max_cost=1.2)
    decision = replay(Cascade(("small", "large"), trust=0.9), bounded, RECORD, experts)
    assert decision.answer.expert == "small"


def test_mixing_follows_the_text_and_meets_its_share():
    mix = Mix(Fixed("small"), Fixed("large"), share=0.3)
    queries = [Query.of(f"question {i}") for i in range(2000)]
    asked = [replay(mix, query, RECORD).answer.expert for query in queries]
    assert asked == [replay(mix, query, RECORD).answer.expert for query in queries]
    assert asked.count("large") / 2000 == pytest.approx(0.3, abs=0.04)


def test_a_strategy_is_told_of_a_refused_ask_and_may_do_otherwise():
    class Careful:
        def plan(self, query):
            try:
                answer = yield Ask("large")
            except NotAdmissible:
                answer = yield Ask("small")
            return Decision(answer, because="did otherwise")

    experts = [Expert("small", data_classes=frozenset({"restricted"})), Expert("large")]
    secret = Query.of("x", data_class="restricted")
    assert replay(Careful(), secret, RECORD, experts).answer.expert == "small"


def test_a_mix_says_that_another_query_may_go_another_way():
    quarter = Mix(Fixed("small"), Fixed("large"), 0.25)
    reasons = {replay(quarter, Query.of(f"query {i}"), RECORD).because for i in range(60)}
    assert reasons == {
        "in a mix, for 75 % of queries: always small",
        "in a mix, for 25 % of queries: always large",
    }


def test_the_shares_of_a_mix_of_mixes_multiply():
    nested = Mix(
        Mix(Fixed("small"), Fixed("large"), 0.2), Mix(Fixed("small"), Fixed("large"), 0.6), 0.5
    )
    decisions = [replay(nested, Query.of(f"question {i}"), RECORD) for i in range(2000)]
    asked = [decision.answer.expert for decision in decisions]
    assert asked.count("large") / 2000 == pytest.approx(0.4, abs=0.04)
    assert {decision.because for decision in decisions} == {
        "in a mix, for 40 % of queries: always small",
        "in a mix, for 20 % of queries: always small",
        "in a mix, for 10 % of queries: always large",
        "in a mix, for 30 % of queries: always large",
    }
