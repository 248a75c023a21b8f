"""Asks every expert every query and grades what it says: the rows that routers learn from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import rows
from routewright.data.queries import FACTS, Item
from routewright.drive import Asker, consult, decide
from routewright.errors import NotAdmissible, RoutewrightError, UpstreamError
from routewright.experts.client import LIMITS
from routewright.experts.ledger import BudgetSpent
from routewright.grading.graders import Grade, Graders, is_judge, ungraded
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Ask, Expert, Query, total_cost

CONCURRENCY = 4  # queries under way at once, per expert
MAX_TOKENS = 1024  # of an answer, where neither the query set nor the config says
HOPELESS = 8  # failures in a row after which an expert is left alone
ALWAYS = ("id", "prompt", "messages", "domain", "tags", "split", "reference")
COLUMNS = (
    *("score", "soft", "cost", "answer", "text", "verify", "verify_cost", "verdicts"),
    *("logprob", "latency", "in_tokens", "out_tokens"),
)


@dataclass(frozen=True)
class Questions:
    """What one expert is asked about one query: to answer, to check that, and to answer again."""

    expert: str
    verifications: int = 0  # one at temperature 0, several at 1
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
                continue  # what is missing is not known


@dataclass
class Cell:
    """One expert on one query: everything that it said, and what that is worth."""

    item: Item
    expert: str
    spent: Sequence[Answer] = ()
    failed: str | None = None  # why there is no answer
    grade: Grade = field(default_factory=lambda: ungraded("not graded"))
    soft: float = math.nan  # mean score of the samples

    @property
    def answers(self) -> list[Answer]:
        """The answer, then the samples."""
        return [said for said in self.spent if said.kind == "answer" and said.status == "ok"]

    @property
    def checks(self) -> list[Answer]:
        return [said for said in self.spent if said.kind == "verify"]

    def row(self) -> dict[str, Any]:
        """The cell's part of the outcome table; what is not known is left out."""
        found: dict[str, Any] = {"score": self.grade.score, "soft": self.soft}
        failures = [a.cost for a in self.spent if a.kind == "answer" and a.status != "ok"]
        if self.answers:
            said = self.answers[0]
            found |= {"answer": said.text if self.grade.answer is None else self.grade.answer}
            found |= {"text": said.text} if found["answer"] != said.text else {}
            found |= {"cost": said.cost, "latency": said.latency}
            found |= {"in_tokens": said.input_tokens, "out_tokens": said.output_tokens}
            found |= {"logprob": min(0.0, said.logprob)} if said.logprobs else {}
        elif failures:
            found["cost"] = math.fsum(failures)
        sure = [check.confidence for check in self.checks if check.confidence is not None]
        if sure:
            found["verify"] = math.fsum(sure) / len(sure)
            found["verify_cost"] = total_cost(self.checks)
            found["verdicts"] = len(self.checks)
        return {name: value for name, value in found.items() if value == value}  # NaN is not


class Interview:
    """Asks `items` of every expert, some at a time; `cells` fills as the answers come in.

    Rows are graded as soon as every expert has answered. `left_out` says which experts were given
    up, and why: eight failures in a row, or no money left for their next ask. `recalled` experts
    are not asked: what the asker `recall` knows of them joins the rows. `judges` are the experts
    that graders may ask. In a `rehearsal` only what asks experts is run.
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
        self.everybody = {expert.name: expert for expert in (*self.experts, *judges)}
        self.rehearsal = rehearsal
        self.on_cell = on_cell
        self.cells: dict[tuple[str, str], Cell] = {}  # (query's id, expert)
        self.left_out: dict[str, str] = {}
        self.out_of_money = False
        self.stopped = False
        for item in items:
            graders.of(item)  # a grader that may not be used is found before money is spent
        self._missing = dict.fromkeys((item.query.id for item in items), len(self._all))
        self._failures = dict.fromkeys(self.everybody, 0)  # in a row
        self._judging = asyncio.Semaphore(concurrency)

    @property
    def _all(self) -> tuple[Expert, ...]:
        return (*self.recalled, *self.experts)

    def stop(self) -> None:
        """Begins nothing new; what is under way ends in peace."""
        self.stopped = True

    async def run(self) -> dict[tuple[str, str], Cell]:
        """Asks and grades whatever is not stopped; raises what an asker or grader raises."""
        try:
            async with asyncio.TaskGroup() as group:
                for expert in self._all:
                    queue = iter(self.items)
                    for _ in range(self.concurrency):
                        group.create_task(self._work(expert, queue, group))
        except BaseExceptionGroup as several:
            raise _first(several) from several
        for item in self.items:
            if self._missing[item.query.id] > 0:  # somebody was given up on the way
                await self._grade(item)
        return self.cells

    # --- asking -------------------------------------------------------------------------------

    async def _work(self, expert: Expert, queue: Iterator[Item], group: asyncio.TaskGroup) -> None:
        for item in queue:
            if self.stopped or expert.name in self.left_out:
                return
            if expert in self.recalled:
                assert self.recall is not None, "somebody must know what is recalled"
                cell = await self._ask(item, expert, self.recall)
                cell = None if cell is None or cell.failed else cell
            else:
                cell = await self._ask(item, expert, self.asker)
                self._note(expert.name, cell)
            if cell is not None:
                self.cells[item.query.id, expert.name] = cell
            self._missing[item.query.id] -= 1
            if not self._missing[item.query.id]:
                group.create_task(self._grade(item))

    def _note(self, expert: str, cell: Cell | None) -> None:
        if cell is None:
            return
        self._failures[expert] = self._failures[expert] + 1 if cell.failed else 0
        if self._failures[expert] >= HOPELESS:
            self.left_out[expert] = f"failed {HOPELESS} times in a row: {cell.failed}"
        self.on_cell(cell)

    async def _ask(self, item: Item, expert: Expert, asker: Asker) -> Cell | None:
        """None if the money does not reach for an answer."""
        spent: list[Answer] = []
        failed = None
        questions = Questions(expert.name, self.verifications, self.samples, self.logprobs)
        query = self._limited(item.query, expert)
        try:
            await consult(questions.plan(), query, [expert], asker, spent)
        except BudgetSpent as error:
            self.out_of_money = True
            self.left_out.setdefault(expert.name, str(error))
            if not any(answer.status == "ok" for answer in spent):
                return None
        except (UpstreamError, NotAdmissible) as error:
            failed = getattr(error, "reason", None) or str(error)
        return Cell(item, expert.name, spent, failed)

    def _limited(self, query: Query, expert: Expert) -> Query:
        """An answer's length has a limit, so that its price has one."""
        if any({**query.options, **expert.options}.get(limit) is not None for limit in LIMITS):
            return query
        return replace(query, options={**query.options, "max_tokens": self.max_tokens})

    # --- grading ------------------------------------------------------------------------------

    async def _grade(self, item: Item) -> None:
        """Grades everything that was said to one query."""
        said = [self.cells.get((item.query.id, expert.name)) for expert in self._all]
        cells = {cell.expert: cell for cell in said if cell is not None and cell.answers}
        if not cells:
            return
        first = {name: cell.answers[0].text for name, cell in cells.items()}
        for name, grade in (await self._grades(item, first)).items():
            cells[name].grade = grade
        for cell in cells.values():
            samples = {str(n): answer.text for n, answer in enumerate(cell.answers[1:])}
            scores = [grade.score for grade in (await self._grades(item, samples)).values()]
            known = [score for score in scores if not math.isnan(score)]
            cell.soft = math.fsum(known) / len(known) if known else math.nan

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
            decision = await decide(Fixed(expert), query, [self.everybody[expert]], self.asker)
            return decision.answer


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    one = several.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


class Stopped(RoutewrightError):
    """The interview was told to stop."""


# --- the table -----------------------------------------------------------------------------


def write(
    items: Sequence[Item],
    cells: Mapping[tuple[str, str], Cell],
    path: Path,
    order: Sequence[str] = (),
) -> None:
    """Writes a wide outcome table (docs/outcome-tables.md), whole or not at all.

    The experts stand in the given `order`, others after them.
    """
    frame = table(items, cells, order)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(partial)
    partial.replace(path)


def table(
    items: Sequence[Item], cells: Mapping[tuple[str, str], Cell], order: Sequence[str] = ()
) -> pl.DataFrame:
    there = {expert for _, expert in cells}
    experts = [*(expert for expert in order if expert in there), *sorted(there - set(order))]
    columns: dict[str, list[Any]] = {f"{c}::{expert}": [] for expert in experts for c in COLUMNS}
    for item in items:
        for expert in experts:
            cell = cells.get((item.query.id, expert))
            known = {} if cell is None else cell.row()
            for column in COLUMNS:
                columns[f"{column}::{expert}"].append(known.get(column))
    kept = [
        pl.Series(
            name, values, pl.String if name.startswith(("answer::", "text::")) else pl.Float64
        )
        for name, values in columns.items()
        if name.startswith("score::") or any(value is not None for value in values)
    ]
    lines = [_line(item) for item in items]
    shown = [n for n in lines[0] if n in ALWAYS or any(line[n] is not None for line in lines)]
    facts = pl.DataFrame(lines, infer_schema_length=None).select(shown)
    return facts.with_columns(kept)


def _line(item: Item) -> dict[str, Any]:
    """The columns that are not about an expert: the query, and what grading an answer to it takes.
    Lists and objects are JSON."""
    query = rows.flat(rows.row(item.query))
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
