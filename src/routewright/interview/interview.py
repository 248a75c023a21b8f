"""Asks every expert every query, grades the answers and writes them as an outcome table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import (
    Callable,
    Container,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import outcomes, rows
from routewright.data.queries import FACTS, Item
from routewright.drive import Asker, consult, decide
from routewright.errors import BadInput, NotAdmissible, RoutewrightError, UpstreamError
from routewright.experts.ledger import BudgetSpent, NotAsked
from routewright.experts.limits import check_visible, visible
from routewright.experts.spending import LIMITS
from routewright.grading.graders import Grade, Graders, is_judge, ungraded
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Ask, DataClass, Expert, Query, total_cost

CONCURRENCY = 4  # concurrent queries per expert
MAX_TOKENS = 1024  # limit of an answer if neither the query set nor the config sets one
MAX_FAILURES = 8  # failures in a row after which an expert is skipped
ALWAYS = ("id", "prompt", "messages", "domain", "tags", "split", "reference")
COLUMNS = (
    *("score", "soft", "cost", "answer", "text", "verify", "verify_cost", "verdicts"),
    *("logprob", "latency", "in_tokens", "out_tokens"),
)


@dataclass(frozen=True)
class Questions:
    """The asks to one expert about one query: an answer, its verifications and further samples."""

    expert: str
    verifications: int = 0  # a single one has temperature 0, several have temperature 1
    samples: int = 0  # further answers at temperature 1
    logprobs: bool = False  # ask for the answer's log-probabilities

    def plan(self) -> Generator[Ask, Answer, None]:
        answer = yield Ask(self.expert, options={"logprobs": True} if self.logprobs else {})
        first = int(self.verifications > 1)
        checks = range(first, self.verifications + first)
        more = [Ask(self.expert, "verify", of=answer, sample=n) for n in checks]
        more += [Ask(self.expert, sample=n + 1) for n in range(self.samples)]
        for ask in more:
            try:
                yield ask
            except (UpstreamError, NotAdmissible):
                continue  # a missing sample or verification stays unknown


@dataclass
class Cell:
    """One expert on one query: all its answers and their grades."""

    item: Item
    expert: str
    spent: Sequence[Answer] = ()
    failed: str | None = None  # the reason why there is no answer
    barred: bool = False  # whether the reason is a limit of the query: asking again cannot help
    grade: Grade = field(default_factory=lambda: ungraded("not graded"))
    soft: float = math.nan  # mean score of the samples

    @property
    def answers(self) -> list[Answer]:
        """The answer, then the samples."""
        return [a for a in self.spent if a.kind == "answer" and a.status == "ok"]

    @property
    def checks(self) -> list[Answer]:
        return [answer for answer in self.spent if answer.kind == "verify"]

    def row(self) -> dict[str, Any]:
        """The cell's columns in the outcome table; unknown values are omitted."""
        values: dict[str, Any] = {"score": self.grade.score, "soft": self.soft}
        failures = [a.cost for a in self.spent if a.kind == "answer" and a.status != "ok"]
        if self.answers:
            first = self.answers[0]
            values |= {"answer": first.content if self.grade.answer is None else self.grade.answer}
            values |= {"text": first.content} if values["answer"] != first.content else {}
            values |= {"cost": first.cost, "latency": first.latency}
            values |= {"in_tokens": first.input_tokens, "out_tokens": first.output_tokens}
            values["logprob"] = min(first.logprob, 0.0)  # NaN stays NaN in this order
        elif failures:
            values["cost"] = math.fsum(failures)
        confidences = [check.confidence for check in self.checks if check.confidence is not None]
        if confidences:
            values["verify"] = math.fsum(confidences) / len(confidences)
        if any(check.status == "ok" for check in self.checks):  # also if none can be read
            values["verify_cost"] = total_cost(self.checks)
            values["verdicts"] = len(self.checks)
        return {name: value for name, value in values.items() if not _unknown(value)}


class Interview:
    """Asks every expert the `items`, several concurrently, and collects the results in `cells`.

    A row is graded as soon as every expert has answered it. `left_out` maps each skipped expert to
    the reason: eight failures in a row, one that no waiting ends (`NotAsked`), or a budget that
    does not cover its next ask. Experts in
    `recalled` are not asked; their earlier answers come from the asker `recall`. `judges` are the
    experts that graders may ask. Every expert gets the first query before any gets a second one;
    `on_down` is called with the name and the reason of each that fails it. With `rehearsal` only
    the graders that ask experts run.
    """

    def __init__(
        self,
        items: Sequence[Item],
        experts: Iterable[Expert],
        asker: Asker,
        graders: Graders,
        *,
        verifications: int = 0,
        samples: int = 0,
        logprobs: bool = False,
        max_tokens: int = MAX_TOKENS,
        concurrency: int = CONCURRENCY,
        recalled: Iterable[Expert] = (),
        recall: Asker | None = None,
        judges: Iterable[Expert] = (),
        rehearsal: bool = False,
        on_cell: Callable[[Cell], None] = lambda cell: None,
        on_down: Callable[[str, str], None] = lambda expert, reason: None,
    ) -> None:
        self.items = items
        self.experts = tuple(experts)
        self.asker = asker
        self.graders = graders
        self.verifications = verifications
        self.samples = samples
        self.logprobs = logprobs
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self.recalled = tuple(recalled)
        self.recall = recall
        self.experts_by_name = {expert.name: expert for expert in (*self.experts, *judges)}
        self.rehearsal = rehearsal
        self.on_cell = on_cell
        self.on_down = on_down
        self.cells: dict[tuple[str, str], Cell] = {}  # (query's id, expert)
        self.left_out: dict[str, str] = {}
        self.closed: dict[str, str] = {}  # those of them that no waiting brings back, and judges
        self.out_of_money = False
        self.stopped = False
        self._error: Exception | None = None  # the first unexpected one
        _by_judge(items, graders, self.experts_by_name)  # raises before money is spent
        self._missing = dict.fromkeys((item.query.id for item in items), len(self._all))
        self._failures = dict.fromkeys(self.experts_by_name, 0)  # in a row
        self._judging = asyncio.Semaphore(concurrency)

    @property
    def _all(self) -> tuple[Expert, ...]:
        return (*self.recalled, *self.experts)

    def stop(self) -> None:
        """Starts no further asks; those in progress are completed."""
        self.stopped = True

    async def run(self) -> dict[tuple[str, str], Cell]:
        """Asks and grades until done or stopped.

        Raises what an asker or grader raises, after the asks in progress have ended: they are paid
        for, so their answers belong into the journal.
        """
        await self._ask_all(self.items[:1])
        for expert in self.experts:
            cell = self.cells.get((self.items[0].query.id, expert.name)) if self.items else None
            if cell is not None and cell.failed and not cell.barred:
                self.on_down(expert.name, cell.failed)
        await self._ask_all(self.items[1:])
        for item in self.items:
            if self._missing[item.query.id] > 0:  # an expert was skipped on the way
                await self._grade(item)
        return self.cells

    async def _ask_all(self, items: Sequence[Item]) -> None:
        async with asyncio.TaskGroup() as group:
            for expert in self._all:
                queue = iter(items)
                for _ in range(min(self.concurrency, len(items))):
                    group.create_task(self._guarded(self._work(expert, queue, group)))
        if self._error is not None:
            raise self._error

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work; an error stops the interview."""
        try:
            await work
        except Exception as error:
            self._error = self._error or error
            self.stop()

    # --- asking -------------------------------------------------------------------------------

    async def _work(self, expert: Expert, queue: Iterator[Item], group: asyncio.TaskGroup) -> None:
        for item in queue:
            if self.stopped:
                return
            cell = None
            if expert in self.recalled:
                assert self.recall is not None, "recalled experts need an asker"
                cell = await self._ask(item, expert, self.recall)
                cell = None if cell is None or cell.failed else cell
            elif expert.name not in self.left_out:
                cell = await self._ask(item, expert, self.asker)
                self._note(expert.name, cell)
            if cell is not None:
                self.cells[item.query.id, expert.name] = cell
            self._missing[item.query.id] -= 1
            if not self._missing[item.query.id]:
                group.create_task(self._guarded(self._grade(item)))

    def _note(self, expert: str, cell: Cell | None) -> None:
        if cell is None:
            return
        if not cell.barred:
            self._failures[expert] = self._failures[expert] + 1 if cell.failed else 0
        if self._failures[expert] >= MAX_FAILURES:
            self.left_out[expert] = f"failed {MAX_FAILURES} times in a row: {cell.failed}"
        self.on_cell(cell)

    async def _ask(self, item: Item, expert: Expert, asker: Asker) -> Cell | None:
        """The expert's cell; None if an answer was not asked for: the budget does not cover it, the
        run was stopped, or the expert cannot answer any more."""
        spent: list[Answer] = []
        failed, barred = None, False
        questions = Questions(expert.name, self.verifications, self.samples, self.logprobs)
        query = self._limited(item.query, expert)
        try:
            await consult(questions.plan(), query, [expert], asker, spent)
        except (BudgetSpent, NotAsked) as error:
            self._leave_out(expert.name, error)
            if not any(answer.status == "ok" for answer in spent):
                return None
        except NotAdmissible as error:
            failed, barred = str(error), True
        except UpstreamError as error:
            failed = error.reason or str(error)
        return Cell(item, expert.name, spent, failed, barred)

    def _leave_out(self, expert: str, error: BudgetSpent | NotAsked) -> None:
        self.out_of_money |= isinstance(error, BudgetSpent)
        if self.stopped:
            return
        if isinstance(error, NotAsked):
            self.closed[expert] = error.reason
        self.left_out.setdefault(expert, self.closed.get(expert, str(error)))

    def _limited(self, query: Query, expert: Expert) -> Query:
        """The query with a limit on the answer's tokens, so that its cost has an upper bound."""
        if any({**query.options, **expert.options}.get(limit) is not None for limit in LIMITS):
            return query
        return replace(query, options={**query.options, "max_tokens": self.max_tokens})

    # --- grading ------------------------------------------------------------------------------

    async def _grade(self, item: Item) -> None:
        """Grades all answers to one query."""
        row = [self.cells.get((item.query.id, expert.name)) for expert in self._all]
        cells = {cell.expert: cell for cell in row if cell is not None and cell.answers}
        if not cells:
            return
        first = {name: cell.answers[0].content for name, cell in cells.items()}
        for name, grade in (await self._grades(item, first)).items():
            cells[name].grade = grade
        for cell in cells.values():
            samples = {str(n): answer.content for n, answer in enumerate(cell.answers[1:])}
            grades = (await self._grades(item, samples)).values()
            scores = [grade.score for grade in grades if not math.isnan(grade.score)]
            cell.soft = math.fsum(scores) / len(scores) if scores else math.nan

    async def _grades(self, item: Item, texts: Mapping[str, str]) -> Mapping[str, Grade]:
        grader = self.graders.of(item)
        if not texts or (self.rehearsal and not is_judge(grader)):
            return {}
        if not is_judge(grader):
            tasks = (asyncio.to_thread(grader.grade, item, text) for text in texts.values())
            return dict(zip(texts, await asyncio.gather(*tasks), strict=True))
        try:
            return await grader.judge(item, texts, self._ask_judge)
        except (BudgetSpent, Stopped) as error:
            self.out_of_money |= isinstance(error, BudgetSpent)
            return dict.fromkeys(texts, ungraded(str(error)))

    async def _ask_judge(self, expert: str, query: Query) -> Answer:
        async with self._judging:
            if self.stopped:
                raise Stopped("stopped before a judge was asked")
            try:
                decision = await decide(
                    Fixed(expert), query, [self.experts_by_name[expert]], self.asker
                )
            except NotAsked as error:
                self._leave_out(expert, error)
                raise UpstreamError(expert, "it is not asked any more") from error
            return decision.answer


def withheld(
    items: Sequence[Item], experts: Iterable[Expert], judges: Iterable[Expert], graders: Graders
) -> list[str]:
    """A sentence for each expert and judge that may not see some of the queries.

    Raises BadInput if none of the experts, or one of the judges, may see any of them.
    """
    queries = [item.query for item in items]
    views = [visible(expert, queries) for expert in experts]
    sentences = [sentence for _, sentence in views if sentence]
    if views and not any(positions for positions, _ in views):
        raise BadInput(
            f"no expert may see any of these queries ({'; '.join(sentences)}): change"
            " `data_classes` or `region` in the config"
        )
    experts_by_name = {expert.name: expert for expert in (*experts, *judges)}
    for name, judged in _by_judge(items, graders, experts_by_name).items():
        judge = experts_by_name[name]
        check_visible(judge, judged)
        if sentence := visible(judge, judged)[1]:
            sentences.append(f"judge {sentence}; their answers are not graded")
    return sentences


def _by_judge(
    items: Iterable[Item], graders: Graders, experts: Container[str]
) -> dict[str, list[Query]]:
    """The queries whose answers are graded by an expert, by its name.

    Raises BadInput for an unusable grader, and for a judge that is not among the experts.
    """
    judged: dict[str, list[Query]] = {}
    for item in items:
        grader = graders.of(item)
        name = getattr(grader, "expert", None) if is_judge(grader) else None
        if isinstance(name, str):
            judged.setdefault(name, []).append(item.query)
    if unknown := [name for name in judged if name not in experts]:
        raise BadInput(f"no expert '{unknown[0]}' in the config: it cannot grade answers")
    return judged


def _unknown(value: Any) -> bool:
    return not isinstance(value, str) and math.isnan(value)


class Stopped(RoutewrightError):
    """The user stopped the interview."""


# --- the table -----------------------------------------------------------------------------


def write(
    items: Sequence[Item],
    cells: Mapping[tuple[str, str], Cell],
    path: Path,
    order: Sequence[str] = (),
    data_class: DataClass = "public",
) -> None:
    """Writes a wide outcome table (docs/outcome-tables.md) atomically.

    Experts are written in the given `order`, others after them by name. `data_class` is as in
    `rows.row`. Raises BadInput if the file cannot be written; an older one is then unchanged.
    """
    outcomes.save(table(items, cells, order, data_class), path)


def table(
    items: Sequence[Item],
    cells: Mapping[tuple[str, str], Cell],
    order: Sequence[str] = (),
    data_class: DataClass = "public",
) -> pl.DataFrame:
    names = {expert for _, expert in cells}
    experts = [*(expert for expert in order if expert in names), *sorted(names - set(order))]
    columns: dict[str, list[Any]] = {f"{c}::{expert}": [] for expert in experts for c in COLUMNS}
    for item in items:
        for expert in experts:
            cell = cells.get((item.query.id, expert))
            values = {} if cell is None else cell.row()
            for column in COLUMNS:
                columns[f"{column}::{expert}"].append(values.get(column))
    series = [
        pl.Series(
            name, column, pl.String if name.startswith(("answer::", "text::")) else pl.Float64
        )
        for name, column in columns.items()
        if name.startswith("score::") or any(value is not None for value in column)
    ]
    lines = [_line(item, data_class) for item in items]
    shown = [n for n in lines[0] if n in ALWAYS or any(line[n] is not None for line in lines)]
    facts = pl.DataFrame(lines, infer_schema_length=None).select(shown)
    return facts.with_columns(series)


def _line(item: Item, data_class: DataClass) -> dict[str, Any]:
    """The columns of the query and of the facts for its grader; lists and objects are JSON."""
    query = rows.flat(rows.row(item.query, data_class))
    single = len(item.references) == 1
    grading: dict[str, Any] = {
        "references": None if single else list(item.references) or None,
        "grader": item.grader,
        **{name: query[name] for name in ("data_class", "region", "options")},
        **{name: item.facts.get(name) for name in FACTS},
    }
    return {
        **{name: query[name] for name in ("id", "prompt", "messages", "domain", "tags")},
        "split": item.split,
        "reference": item.references[0] if single else None,
        **{
            name: value if value is None or isinstance(value, str) else rows.dumps(value)
            for name, value in grading.items()
        },
    }
