"""Contracts for every strategy, predictor, encoder and grader, including your own.

Each check takes one of them and raises AssertionError with a sentence if it breaks the contract.
The test suite runs the checks on everything that the registry finds; run them on your own plug-in
in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np

from routewright import metrics, registry
from routewright.answers.evidence import Evidence, Rung
from routewright.data.outcomes import Outcomes
from routewright.data.queries import Item
from routewright.drive import Record, replay
from routewright.errors import NotAdmissible, UpstreamError
from routewright.experts.limits import recorded
from routewright.prediction.encoders import Encoder
from routewright.prediction.forest import Forest
from routewright.prediction.predictors import Predictor, inputs
from routewright.strategies import _recorded, build
from routewright.strategies._recorded import Recorded, StandIn, replayed
from routewright.types import (
    MAX_EXCERPT,
    Answer,
    Array,
    Ask,
    Decision,
    Expert,
    Plan,
    Prediction,
    Query,
)

EXPERTS = ("small", "middle", "large")
TEXTS = (
    "What is 2 + 2?",
    "",
    "Write a function that reverses a list.\n```python\ndef f(x):\n```",
    "Wie heißt die Hauptstadt von Österreich? 首都は？ 🙂",
    "word " * 5_000,
    "\x00\ud800 odd characters",
)


# --- strategies ----------------------------------------------------------------------------


def beliefs(queries: Sequence[Query]) -> Prediction:
    """Made-up predictions, derived from the queries' texts."""
    quality = np.array([[query.lot, (query.lot * 7) % 1, 0.8] for query in queries])
    shape = (len(queries), len(EXPERTS))
    return Prediction(
        EXPERTS,
        quality.reshape(shape),
        np.full(shape, 0.1),
        np.broadcast_to(np.array([0.01, 0.03, 0.2]), shape),
        np.full(shape, np.nan),
    )


EVIDENCE = Evidence(  # climbs to a committee of two, whose answers are right with probability 0.5
    kind="text",
    prices=np.array([0.0, 10.0]),
    rungs=(
        Rung(onward=Forest.constant([0.1, 0.1])),
        Rung((0, 1), candidates=Forest.constant([0.5]), gains=Forest.constant([0.3])),
    ),
)
ROUTER = StandIn(  # has everything that a strategy may use
    beliefs, EVIDENCE, np.array([0.5, 0.5, 0.8]), average_cost=np.array([0.01, 0.03, 0.2])
)


def example(name: str) -> Any:
    """A strategy of that name over EXPERTS, with example values for its fields."""
    fixed = [{"strategy": "fixed", "expert": expert} for expert in EXPERTS]
    options: dict[str, Any] = {
        "expert": EXPERTS[0],
        "ladder": list(EXPERTS),
        "then": list(EXPERTS[1:]),
        "experts": list(EXPERTS),
        "first": fixed[0],
        "second": fixed[2],
        "wanted": fixed[0],
        "share": 0.5,
        "price": 1.0,
        "budget": 0.05,
    }
    taken = registry.options(registry.find("strategies", name))
    spec = {key: options[key] for key in taken if key in options}
    return build({"strategy": name, **spec}, ROUTER)


def queries(n: int = 12) -> list[Query]:
    return [Query.of(f"question {i}: {i} + {i * i}", id=str(i)) for i in range(n)]


def record(query: Query) -> Record:
    """Answers with log-probabilities, verifications and rewards of every expert, different for each
    query."""
    answers: dict[str | tuple[str, str], Answer] = {}
    for m, expert in enumerate(EXPERTS):
        score = float((query.lot * 97 + m * 0.3) % 1 > 0.4)
        answers[expert] = Answer(
            expert,
            f"{expert} says {query.id}",
            cost=0.1 * (m + 1),
            score=score,
            logprobs=(-((query.lot * 17 + m * 0.3) % 1),),
        )
        answers[expert, "judge"] = Answer(
            expert, kind="judge", reward=(query.lot * 31 + m * 0.4) % 1, cost=0.01
        )
        answers[expert, "verify"] = Answer(
            expert, kind="verify", confidence=(query.lot * 13 + m * 0.2) % 1, cost=0.01
        )
    return answers


def without(answers: Record, experts: Collection[str], tag: str | None) -> Record:
    """The record in which every ask of these experts fails or, with a `tag`, begins with the
    tag."""

    def failed(answer: Answer) -> Answer:
        if tag is not None:
            return dataclasses.replace(answer, text=f"{tag} {answer.text}")
        return Answer(answer.expert, kind=answer.kind, status="failed", reason="is down")

    return {key: failed(a) if a.expert in experts else a for key, a in answers.items()}


@dataclasses.dataclass
class DecisionRecorder:
    """Runs a strategy and records its decision before the loop checks it."""

    strategy: Any
    decision: Decision | None = None

    def plan(self, query: Query) -> Plan:
        self.decision = yield from self.strategy.plan(query)
        return self.decision


def run(
    strategy: Any, query: Query, answers: Record, experts: Iterable[Expert] | None = None
) -> Decision:
    """Replays a strategy; returning an answer that did not arrive breaks the contract, although
    the loop treats it as an expert's failure."""
    recorder = DecisionRecorder(strategy)
    try:
        return replay(recorder, query, answers, experts)
    except UpstreamError:
        if recorder.decision is not None:
            answer = recorder.decision.answer
            assert answer.status == "ok", (
                f"an answer with status '{answer.status}' must not be returned"
            )
        raise


def check_strategy(strategy: Any) -> None:
    """Runs every check below."""
    for check in STRATEGY_CHECKS:
        check(strategy)


def it_returns_an_answer_that_it_asked_for(strategy: Any) -> None:
    for query in queries():
        decision = run(strategy, query, record(query))
        assert decision.answer in decision.spent, (
            "the answer must be one of the answers that were asked for"
        )
        assert decision.answer.kind == "answer", "a verification is not an answer"
        assert decision.because, "a decision must say why"


def it_returns_only_answers_that_arrived(strategy: Any) -> None:
    """For any experts that fail or defer, and any order in which a committee's answers arrive."""
    subsets = [s for n in range(1, len(EXPERTS) + 1) for s in combinations(EXPERTS, n)]
    for query in queries(3):
        asks = next(strategy.plan(query), ())
        tags = {tag for ask in ((asks,) if isinstance(asks, Ask) else asks) for tag in ask.unless}
        for order in permutations(range(len(EXPERTS))):
            seconds = dict(zip(EXPERTS, map(float, order), strict=True))
            delayed: Record = {
                key: dataclasses.replace(answer, latency=seconds[answer.expert])
                for key, answer in record(query).items()
            }
            records = [without(delayed, s, tag) for s in subsets for tag in (None, *sorted(tags))]
            for answers in (delayed, *records):
                with suppress(UpstreamError):
                    run(strategy, query, answers)


def it_decides_the_same_twice(strategy: Any) -> None:
    for query in queries():
        first, second = (run(strategy, query, record(query)) for _ in range(2))
        assert first.path == second.path, "the same query must take the same path"


def it_never_asks_whom_the_query_forbids(strategy: Any) -> None:
    for query in queries():
        for expert in EXPERTS:
            barred = [e for e in EXPERTS if e != expert]
            experts = [
                dataclasses.replace(recorded(e), data_classes=frozenset({"public"})) for e in barred
            ]
            secret = dataclasses.replace(query, data_class="restricted")
            try:
                decision = run(strategy, secret, record(query), [*experts, recorded(expert)])
            except NotAdmissible:
                continue
            asked = {answer.expert for answer in decision.spent}
            assert asked == {expert}, f"a restricted query reached {asked - {expert}}"


def it_keeps_its_word_on_final_asks(strategy: Any) -> None:
    for query in queries():
        answers = record(query)
        plan = strategy.plan(query)
        final: Answer | None = None
        try:
            asks = next(plan)
            while True:
                assert final is None, "nothing may be asked after a final ask succeeded"
                if isinstance(asks, Ask):
                    key = asks.expert if asks.kind == "answer" else (asks.expert, asks.kind)
                    reply: Any = answers[key]
                    final = reply if asks.final else None
                else:
                    reply = tuple(
                        answers[a.expert if a.kind == "answer" else (a.expert, a.kind)]
                        for a in asks
                    )
                asks = plan.send(reply)
        except StopIteration as stop:
            decision = stop.value
        assert final is None or decision.answer is final, (
            "the answer of a final ask must be the decision's answer"
        )


def it_reports_failure_when_everybody_fails(strategy: Any) -> None:
    for query in queries(3):
        try:
            run(strategy, query, without(record(query), EXPERTS, None))
        except UpstreamError:
            continue
        raise AssertionError("with every expert down a strategy must raise UpstreamError")


def it_runs_over_a_table_as_it_is_replayed(strategy: Any) -> None:
    """Score, cost and experts asked, row by row; a drawn lot must be among the expected ones."""
    rows = Recorded(table(queries(40)), ROUTER)
    at_once, replays = _recorded.run(strategy, rows), replayed(strategy, rows)
    drawn = ((at_once.asked > 0) & (at_once.asked < 1)).any(axis=1)
    sentence = "the result on a table must equal the result of the plan"
    for expected, replayed_values in zip(at_once[:3], replays[:3], strict=True):
        assert np.allclose(expected[~drawn], replayed_values[~drawn], rtol=1e-9, equal_nan=True), (
            sentence
        )
    assert (at_once.asked[replays.asked > 0] > 0).all(), sentence


def table(many: Sequence[Query]) -> Outcomes:
    """The records of these queries as an outcome table."""
    records = [record(query) for query in many]

    def cells(kind: str, name: str) -> Array:
        return np.array([[getattr(r[e, kind], name) for e in EXPERTS] for r in records], float)

    answers = [[r[e] for e in EXPERTS] for r in records]
    measures = {
        "score": np.array([[a.score for a in row] for row in answers], np.float64),
        "cost": np.array([[a.cost for a in row] for row in answers]),
        "logprob": np.array([[a.logprob for a in row] for row in answers]),
        "verify": cells("verify", "confidence"),
        "verify_cost": cells("verify", "cost"),
        "reward": cells("judge", "reward"),
        "reward_cost": cells("judge", "cost"),
    }
    texts = np.array([[a.text for a in row] for row in answers], dtype=object)
    return Outcomes(EXPERTS, tuple(many), measures, texts)


STRATEGY_CHECKS: tuple[Callable[[Any], None], ...] = (
    it_returns_an_answer_that_it_asked_for,
    it_returns_only_answers_that_arrived,
    it_decides_the_same_twice,
    it_never_asks_whom_the_query_forbids,
    it_keeps_its_word_on_final_asks,
    it_reports_failure_when_everybody_fails,
    it_runs_over_a_table_as_it_is_replayed,
)


# --- encoders ------------------------------------------------------------------------------


def check_encoder(make: Callable[[], Encoder], folder: Path) -> None:
    """A fitted encoder returns finite rows that do not depend on other rows, and reloads."""
    texts = [*TEXTS, *(query.text for query in queries(30))]
    many = [Query.of(t, domain="maths" if i % 2 else "code") for i, t in enumerate(texts)]
    encoder = make().fit(many, seed=1)
    x = encoder.encode(many)
    assert x.shape == (len(many), max((b.stop for b in encoder.blocks.values()), default=0))
    assert np.isfinite(x).all(), "every value must be finite"
    for i in (0, 3, len(many) - 1):
        alone = encoder.encode([many[i]])[0]
        assert np.array_equal(alone, x[i]), "a query must not depend on its batch"
    refitted = make().fit(many, seed=1).encode(many)
    assert np.allclose(refitted, x, atol=1e-6), "the same seed must give the same vectors"
    loaded = type(encoder).load(*stored(encoder, folder))
    assert np.array_equal(loaded.encode(many), x), "a loaded encoder must repeat the saved one"
    assert encoder.encode([]).shape[0] == 0
    long = Query.of("Is it so, or not?\n" * MAX_EXCERPT)
    of_long, of_excerpt = encoder.encode([long])[0], encoder.encode([Query.of(long.excerpt)])[0]
    assert np.array_equal(of_long, of_excerpt), "read `query.excerpt`: a text may be endless"


def stored(member: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and arrays, read back from JSON and safetensors."""
    import json

    from safetensors.numpy import load_file, save_file

    path = folder / "member.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in member.arrays().items()}, path)
    return json.loads(json.dumps(member.options())), load_file(path)


# --- predictors ----------------------------------------------------------------------------


def training_data(n: int = 300, seed: int = 0) -> tuple[Array, Array, dict[str, slice]]:
    """Vectors and scores of three experts: two are good on one topic each, some scores are NaN."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 2, n)
    text = np.hstack([np.eye(2)[topic] + rng.normal(0, 0.2, (n, 2)), rng.normal(0, 0.3, (n, 4))])
    x = np.hstack([text, np.eye(2)[topic]])
    chance = np.column_stack(
        [np.where(topic == 0, 0.9, 0.2), np.where(topic == 1, 0.8, 0.3), np.full(n, 0.7)]
    )
    scores = (rng.random((n, 3)) < chance).astype(np.float64)
    scores[rng.random((n, 3)) < 0.1] = np.nan
    return x, scores, {"lexical": slice(0, 6), "domain": slice(6, 8)}


def as_queries(x: Array) -> list[Query]:
    """The rows of `training_data` as text, for predictors that read text: a word per positive
    value."""
    words = np.array("list function of the is a what word".split())
    order = (6, 7, 2, 3, 4, 5)  # the columns 6 and 7 are the topic, the others are noise
    return [Query.of(" ".join(words[: len(order)][row[list(order)] > 0.1])) for row in x]


def check_predictor(make: Callable[[], Predictor], folder: Path) -> None:
    """Predictions are probabilities, do not depend on batch or order, and survive saving."""
    x, scores, blocks = training_data()
    x = inputs(make(), x, as_queries(x))
    model = make().fit(x, scores, blocks=blocks, seed=1)
    mean, spread = model.predict(x)
    assert mean.shape == spread.shape == scores.shape
    assert (mean >= 0).all(), "a quality below 0"
    assert (mean <= 1).all(), "a quality above 1"
    assert (spread >= 0).all(), "a negative spread"
    alone = np.vstack([model.predict(x[i : i + 1])[0] for i in range(20)])
    assert np.allclose(alone, mean[:20], atol=1e-12), "a query must not depend on its batch"
    swapped = make().fit(x, scores[:, ::-1], blocks=blocks, seed=1).predict(x)
    assert np.allclose(swapped.mean[:, ::-1], mean, atol=0.02), "experts must be interchangeable"
    loaded = type(model).load(*stored(model, folder))
    assert np.array_equal(loaded.predict(x).mean, mean), "a loaded predictor must repeat itself"
    _check_gaps(make, x, scores, blocks)


def _check_gaps(
    make: Callable[[], Predictor], x: Array, scores: Array, blocks: Mapping[str, slice]
) -> None:
    hidden = scores.copy()
    hidden[:, 1] = np.nan
    belief = make().fit(x, hidden, blocks=blocks).predict(x)
    assert np.isnan(belief.mean[:, 1]).all(), "an expert without any score must stay unknown"
    assert np.isfinite(belief.mean[:, [0, 2]]).all(), "the other experts must stay known"
    same = np.ones_like(scores)
    sure = make().fit(x, same, blocks=blocks).predict(x)
    assert np.allclose(sure.mean, 1.0, atol=0.05), "constant scores must be predicted"


def it_learns_topics(make: Callable[[], Predictor]) -> float:
    """The share by which squared error falls against the means, on held-out rows."""
    x, scores, blocks = training_data(600)
    x, half = inputs(make(), x, as_queries(x)), len(x) // 2
    model = make().fit(x[:half], scores[:half], blocks=blocks)
    error = np.nanmean((model.predict(x[half:]).mean - scores[half:]) ** 2)
    base = np.nanmean((metrics.mean(scores[:half]) - scores[half:]) ** 2)
    return float(1 - error / base)


# --- graders -------------------------------------------------------------------------------


def check_grader(grader: Any) -> None:
    """Right answers get 1, wrong ones less; an ungraded answer is NaN with a reason."""
    item, right, wrong = grader.example
    best, worse = grader.grade(item, right), grader.grade(item, wrong)
    assert best.score == 1, f"its own right answer got {best}"
    assert worse.score < 1, f"its own wrong answer got {worse}"
    for text in TEXTS:
        grade = grader.grade(item, text)
        assert math.isnan(grade.score) or 0 <= grade.score <= 1, f"{grade} is outside 0..1"
        assert not math.isnan(grade.score) or grade.why, "an ungraded answer must say why"
    nothing = dataclasses.replace(item, reference=None, facts={})
    grade = grader.grade(nothing, right)
    assert math.isnan(grade.score), "without a reference it must not guess"
    assert grade.why, "an ungraded answer must say why"


def check_judge(judge: Any, experts: Sequence[str], good: str, bad: str) -> None:
    """A judge turns replies into scores of every answer; malformed replies leave them ungraded.

    `good` is a well-formed reply of the judge's expert, `bad` a malformed one. The query's limits
    must hold for the judge's asks too.
    """
    secret = dataclasses.replace(queries(1)[0], data_class="restricted")
    answers = {name: f"{name} says so" for name in experts}
    for reply, graded in ((good, True), (bad, False)):
        grades, asked = _judged(judge, Item(secret), answers, reply)
        assert set(grades) == set(answers), "every answer must get a grade"
        assert asked, "a judge must ask an expert"
        assert all(query.data_class == "restricted" for query in asked), "a limit was lost"
        for grade in grades.values():
            assert math.isnan(grade.score) is not graded, f"{reply!r} gave {grade}"
            assert graded or grade.why, "an ungraded answer must say why"


def _judged(
    judge: Any, item: Item, answers: Mapping[str, str], reply: str
) -> tuple[Mapping[str, Any], list[Query]]:
    import asyncio

    asked: list[Query] = []

    async def ask(expert: str, query: Query) -> Answer:
        asked.append(query)
        return Answer(expert, reply)

    return asyncio.run(judge.judge(item, answers, ask)), asked
