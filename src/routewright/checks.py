"""Contracts that every strategy, predictor and encoder keeps, yours included.

Each check takes a member and raises AssertionError with a sentence. The test suite runs them
over everything that the registry finds; run them over a member of your own in the same way.
"""

from __future__ import annotations

import dataclasses
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
from routewright.types import Answer, Array, Ask, Decision, Expert, Plan, Prediction, Query

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
    """Made up from the queries' texts."""
    quality = np.array([[query.lot, (query.lot * 7) % 1, 0.8] for query in queries])
    shape = (len(queries), len(EXPERTS))
    return Prediction(
        EXPERTS,
        quality.reshape(shape),
        np.full(shape, 0.1),
        np.broadcast_to(np.array([0.01, 0.03, 0.2]), shape),
        np.full(shape, np.nan),
    )


EVIDENCE = Evidence(  # climbs to a committee of two and then doubts it by half
    kind="text",
    prices=np.array([0.0, 10.0]),
    rungs=(
        Rung(onward=Forest.constant([0.1, 0.1])),
        Rung((0, 1), candidates=Forest.constant([0.5]), gains=Forest.constant([0.3])),
    ),
)
ROUTER = StandIn(  # enough for any strategy
    beliefs, EVIDENCE, np.array([0.5, 0.5, 0.8]), average_cost=np.array([0.01, 0.03, 0.2])
)


def example(name: str) -> Any:
    """A strategy of that name over EXPERTS; its fields are filled in by their names."""
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
    """Answers and verifications of every expert, different from query to query."""
    known: dict[str | tuple[str, str], Answer] = {}
    for m, expert in enumerate(EXPERTS):
        score = float((query.lot * 97 + m * 0.3) % 1 > 0.4)
        known[expert] = Answer(expert, f"{expert} says {query.id}", cost=0.1 * (m + 1), score=score)
        known[expert, "judge"] = Answer(
            expert, kind="judge", reward=(query.lot * 31 + m * 0.4) % 1, cost=0.01
        )
        known[expert, "verify"] = Answer(
            expert, kind="verify", confidence=(query.lot * 13 + m * 0.2) % 1, cost=0.01
        )
    return known


def without(known: Record, experts: Collection[str], tag: str | None) -> Record:
    """The record where everything that these experts are asked fails or, with a `tag`, opens
    with it."""

    def worse(answer: Answer) -> Answer:
        if tag is not None:
            return dataclasses.replace(answer, text=f"{tag} {answer.text}")
        return Answer(answer.expert, kind=answer.kind, status="failed", reason="is down")

    return {key: worse(a) if a.expert in experts else a for key, a in known.items()}


@dataclasses.dataclass
class Witness:
    """Follows a strategy and notes what it decides, before the loop judges that."""

    strategy: Any
    decision: Decision | None = None

    def plan(self, query: Query) -> Plan:
        self.decision = yield from self.strategy.plan(query)
        return self.decision


def run(
    strategy: Any, query: Query, known: Record, experts: Iterable[Expert] | None = None
) -> Decision:
    """As `replay`, but an answer that did not arrive is a broken contract, where the loop sees an
    expert's failure."""
    witness = Witness(strategy)
    try:
        return replay(witness, query, known, experts)
    except UpstreamError:
        if witness.decision is not None:
            answer = witness.decision.answer
            assert answer.status == "ok", f"an answer whose status is '{answer.status}' is no reply"
        raise


def check_strategy(strategy: Any) -> None:
    """Runs every check below."""
    for check in STRATEGY_CHECKS:
        check(strategy)


def it_returns_an_answer_that_it_asked_for(strategy: Any) -> None:
    for query in queries():
        decision = run(strategy, query, record(query))
        assert decision.answer in decision.spent, "the answer must be one of those asked for"
        assert decision.answer.kind == "answer", "a verification is not an answer"
        assert decision.because, "a decision must say why"


def it_returns_only_answers_that_arrived(strategy: Any) -> None:
    """Whoever fails or defers, and in whatever order a committee's answers arrive."""
    subsets = [s for n in range(1, len(EXPERTS) + 1) for s in combinations(EXPERTS, n)]
    for query in queries(3):
        asks = next(strategy.plan(query), ())
        tags = {tag for ask in ((asks,) if isinstance(asks, Ask) else asks) for tag in ask.unless}
        for order in permutations(range(len(EXPERTS))):
            seconds = dict(zip(EXPERTS, map(float, order), strict=True))
            known: Record = {
                key: dataclasses.replace(answer, latency=seconds[answer.expert])
                for key, answer in record(query).items()
            }
            records = [without(known, s, tag) for s in subsets for tag in (None, *sorted(tags))]
            for one in (known, *records):
                with suppress(UpstreamError):
                    run(strategy, query, one)


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
        known = record(query)
        plan = strategy.plan(query)
        final: Answer | None = None
        try:
            wanted = next(plan)
            while True:
                assert final is None, "nothing may be asked after a final ask succeeded"
                if isinstance(wanted, Ask):
                    key = wanted.expert if wanted.kind == "answer" else (wanted.expert, wanted.kind)
                    reply: Any = known[key]
                    final = reply if wanted.final else None
                else:
                    reply = tuple(
                        known[a.expert if a.kind == "answer" else (a.expert, a.kind)]
                        for a in wanted
                    )
                wanted = plan.send(reply)
        except StopIteration as stop:
            decision = stop.value
        assert final is None or decision.answer is final, "a final answer must be the one"


def it_reports_failure_when_everybody_fails(strategy: Any) -> None:
    for query in queries(3):
        try:
            run(strategy, query, without(record(query), EXPERTS, None))
        except UpstreamError:
            continue
        raise AssertionError("with every expert down a strategy must raise UpstreamError")


def it_runs_over_a_table_as_it_is_replayed(strategy: Any) -> None:
    """Score, cost and who is asked, row by row; a lot that is drawn is one of those expected."""
    rows = Recorded(table(queries(40)), ROUTER)
    swept, replays = _recorded.run(strategy, rows), replayed(strategy, rows)
    drawn = ((swept.asked > 0) & (swept.asked < 1)).any(axis=1)
    words = "what it does over a table must be what its plan does"
    for ours, theirs in zip(swept[:3], replays[:3], strict=True):
        assert np.allclose(ours[~drawn], theirs[~drawn], rtol=1e-9, equal_nan=True), words
    assert (swept.asked[replays.asked > 0] > 0).all(), words


def table(many: Sequence[Query]) -> Outcomes:
    """The records of these queries as an outcome table."""
    records = [record(query) for query in many]

    def cells(kind: str, name: str) -> Array:
        return np.array([[getattr(r[e, kind], name) for e in EXPERTS] for r in records], float)

    answers = [[r[e] for e in EXPERTS] for r in records]
    measures = {
        "score": np.array([[a.score for a in row] for row in answers], np.float64),
        "cost": np.array([[a.cost for a in row] for row in answers]),
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
    """A fitted encoder gives finite rows that do not depend on their neighbours, and reloads."""
    texts = [*TEXTS, *(query.text for query in queries(30))]
    many = [Query.of(t, domain="maths" if i % 2 else "code") for i, t in enumerate(texts)]
    encoder = make().fit(many, seed=1)
    x = encoder.encode(many)
    assert x.shape == (len(many), max((b.stop for b in encoder.blocks.values()), default=0))
    assert np.isfinite(x).all(), "every value must be finite"
    for i in (0, 3, len(many) - 1):
        alone = encoder.encode([many[i]])[0]
        assert np.array_equal(alone, x[i]), "a query must not depend on its batch"
    again = make().fit(many, seed=1).encode(many)
    assert np.allclose(again, x, atol=1e-6), "the same seed must give the same vectors"
    loaded = type(encoder).load(*stored(encoder, folder))
    assert np.array_equal(loaded.encode(many), x), "a loaded encoder must repeat the saved one"
    assert encoder.encode([]).shape[0] == 0


def stored(member: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and arrays after a trip through JSON and safetensors."""
    import json

    from safetensors.numpy import load_file, save_file

    path = folder / "member.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in member.arrays().items()}, path)
    return json.loads(json.dumps(member.options())), load_file(path)


# --- predictors ----------------------------------------------------------------------------


def taught(n: int = 300, seed: int = 0) -> tuple[Array, Array, dict[str, slice]]:
    """Vectors and scores of three experts: each good on one topic, some scores unknown."""
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


def told(x: Array) -> list[Query]:
    """The rows of `taught` in words, for predictors that read text: what is above zero."""
    words = np.array("list function of the is a what word".split())
    order = (6, 7, 2, 3, 4, 5)  # the topic's columns say the topic, the others are noise
    return [Query.of(" ".join(words[: len(order)][row[list(order)] > 0.1])) for row in x]


def check_predictor(make: Callable[[], Predictor], folder: Path) -> None:
    """Beliefs are probabilities, independent of batch and order, and survive saving."""
    x, scores, blocks = taught()
    x = inputs(make(), x, told(x))
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
    assert np.isnan(belief.mean[:, 1]).all(), "an expert never scored must stay unknown"
    assert np.isfinite(belief.mean[:, [0, 2]]).all(), "the others must not suffer from it"
    same = np.ones_like(scores)
    sure = make().fit(x, same, blocks=blocks).predict(x)
    assert np.allclose(sure.mean, 1.0, atol=0.05), "constant scores must be predicted"


def it_learns_topics(make: Callable[[], Predictor]) -> float:
    """How much squared error falls against the means, on rows not seen (a share)."""
    x, scores, blocks = taught(600)
    x, half = inputs(make(), x, told(x)), len(x) // 2
    model = make().fit(x[:half], scores[:half], blocks=blocks)
    error = np.nanmean((model.predict(x[half:]).mean - scores[half:]) ** 2)
    base = np.nanmean((metrics.mean(scores[:half]) - scores[half:]) ** 2)
    return float(1 - error / base)


# --- graders -------------------------------------------------------------------------------


def check_grader(grader: Any) -> None:
    """Right answers get 1, wrong ones less, and what cannot be told is NaN with a reason."""
    item, right, wrong = grader.example
    best, worse = grader.grade(item, right), grader.grade(item, wrong)
    assert best.score == 1, f"its own right answer got {best}"
    assert worse.score < 1, f"its own wrong answer got {worse}"
    for text in TEXTS:
        grade = grader.grade(item, text)
        assert grade.score != grade.score or 0 <= grade.score <= 1, f"{grade} is outside 0..1"
        assert grade.score == grade.score or grade.why, "an ungraded answer must say why"
    nothing = dataclasses.replace(item, reference=None, facts={})
    grade = grader.grade(nothing, right)
    assert grade.score != grade.score, "without anything to compare with it guessed"
    assert grade.why, "an ungraded answer must say why"


def check_judge(judge: Any, experts: Sequence[str], good: str, bad: str) -> None:
    """Verdicts become scores of every answer; malformed ones are ungraded and counted.

    `good` is a reply of the judge's expert that is well-formed, `bad` one that is not. The query's
    limits travel with what the judge asks.
    """
    secret = dataclasses.replace(queries(1)[0], data_class="restricted")
    answers = {name: f"{name} says so" for name in experts}
    for reply, known in ((good, True), (bad, False)):
        grades, asked = _judged(judge, Item(secret), answers, reply)
        assert set(grades) == set(answers), "every answer must get a grade"
        assert asked, "a judge must ask somebody"
        assert all(query.data_class == "restricted" for query in asked), "a limit was lost"
        for grade in grades.values():
            assert (grade.score == grade.score) is known, f"{reply!r} gave {grade}"
            assert known or grade.why, "an ungraded answer must say why"


def _judged(
    judge: Any, item: Item, answers: Mapping[str, str], reply: str
) -> tuple[Mapping[str, Any], list[Query]]:
    import asyncio

    asked: list[Query] = []

    async def ask(expert: str, query: Query) -> Answer:
        asked.append(query)
        return Answer(expert, reply)

    return asyncio.run(judge.judge(item, answers, ask)), asked
