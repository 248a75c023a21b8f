"""The outcome table: one row per query; for each expert `m` the columns `score::m`, `cost::m`, ….

The format is wide Parquet; long JSONL (one line per query and expert) is converted. Several files
are joined on `id`, so that experts may be interviewed at different times. Missing cells are NaN.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from routewright import files
from routewright.data import endings, parquet, rows, source, text
from routewright.data import queries as query_sets
from routewright.data.unicode import nfkc
from routewright.errors import BadInput, BadTable, DataWarning, needs
from routewright.types import DATA_CLASSES, Answer, Array, DataClass, Query

if TYPE_CHECKING:
    import polars as pl
else:

    class _Polars:
        """Polars, imported when it is first used: the gateway does without."""

        def __getattr__(self, name):
            with needs("an outcome table"):
                import polars
            return getattr(polars, name)

    pl = _Polars()

MEASURES = (
    *("score", "soft", "cost", "verify", "verify_cost", "verdicts", "reward", "reward_cost"),
    *("latency", "out_tokens", "logprob", "propensity"),
)
UNIT_RANGE = ("score", "soft", "verify", "propensity")
NOT_NEGATIVE = ("cost", "verify_cost", "verdicts", "reward_cost", "latency", "out_tokens")
NOT_POSITIVE = ("logprob",)
ALL = "all"
LONG_NAMES = {  # names in other tools ▶ our columns; `rows` has those of queries
    "response": "answer",
    "model": "expert",
    "completion_tokens": "out_tokens",
    "latency_s": "latency",
}
ROUNDING = 1e-6  # by which a mean of float32 numbers may leave 0..1
UNREAD = ("", "[invalid]")  # answers that say that there is none; the latter in lm-evaluation
HOW_TO_SCORE = (
    "grade its answers with `routewright regrade TABLE` (which needs references), or run"
    " `interview` again with references or a judge (--grader judge=EXPERT)"
)
UNKNOWN = ({"role": "user", "content": ""},)  # the messages of a row without a prompt

Line = tuple[str, dict[str, Any]]  # the place of a row in its file, and its cells
Fingerprints = NDArray[np.uint64]


@dataclass(frozen=True)
class Outcomes:
    """The recorded outcomes of n queries and e experts; arrays are (n, e), NaN if unknown.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> table = rw.read(example() / "outcomes.parquet")
    >>> table.experts, table.score.shape
    (('abacus', 'lexis', 'sage'), (180, 3))
    >>> len(table.where(split="dev", domain=["addition", "weekday"]))
    10
    """

    experts: tuple[str, ...]
    queries: tuple[Query, ...]
    measures: dict[str, Array]  # score (0..1), cost (US$) and all other recorded measures
    answers: np.ndarray[Any, np.dtype[Any]] | None = None  # (n, e) of str or None
    sources: tuple[str, ...] = ()
    split: str = ALL
    groups: tuple[str, ...] = field(default=())  # rows of the same group share a fold
    splits: tuple[str | None, ...] = ()  # of each row; empty without a column `split`

    @property
    def score(self) -> Array:
        return self.measures["score"]

    @property
    def cost(self) -> Array:
        return self.measures["cost"]

    @property
    def domains(self) -> tuple[str | None, ...]:
        return tuple(query.domain for query in self.queries)

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        return (
            f"<Outcomes of {len(self)} queries by {len(self.experts)} experts"
            f" ({text.listed(self.experts)}), split '{self.split}'>"
        )

    def __str__(self) -> str:
        """The size of the table, and each expert's scores and mean cost."""
        domains = len(set(self.domains) - {None})
        size = f"{len(self)} queries" + (f" in {domains} domains" if domains else "")
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # empty columns
            quality, cost = np.nanmean(self.score, axis=0), np.nanmean(self.cost, axis=0)
        scored = np.isfinite(self.score).sum(axis=0)
        rows = [
            (name, str(n), text.percent(q), text.dollars(c))
            for name, n, q, c in zip(self.experts, scored, quality, cost, strict=True)
        ]
        heading = ("expert", "scored", "quality", "US$ per 1,000")
        return f"{size}, split '{self.split}'\n{text.columns([heading, *rows])}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids, prompts, scores and costs; identifies the rows of a fit."""
        sha = hashlib.sha256("\0".join(self.experts).encode())
        for query in self.queries:
            sha.update(f"{query.id}\0{query.full_text}\0".encode())
        for name in ("score", "cost"):
            sha.update(np.ascontiguousarray(self.measures[name]).tobytes())
        return sha.hexdigest()

    @property
    def verdicts(self) -> int | None:
        """The number of verdicts per verification; None if the table does not record it."""
        counts = self.measures.get("verdicts")
        return int(np.nanmax(counts)) if counts is not None and np.isfinite(counts).any() else None

    def rows(self, index: Any) -> Outcomes:
        """Selects rows by positions or by a mask."""
        positions = np.arange(len(self))[index]
        return replace(
            self,
            queries=tuple(self.queries[i] for i in positions),
            measures={name: table[positions] for name, table in self.measures.items()},
            answers=None if self.answers is None else self.answers[positions],
            groups=tuple(self.groups[i] for i in positions) if self.groups else (),
            splits=tuple(self.splits[i] for i in positions) if self.splits else (),
        )

    def where(self, **columns: Any) -> Outcomes:
        """Selects the rows with the given values; a collection matches any of its values.

        The columns are `id`, `domain`, `tags` (a row needs one of them), `data_class`, `split` and
        `group`. Raises BadTable if the table has no such column, if no row has one of the values,
        or if no row has all of them.
        """
        rows = np.ones(len(self), dtype=bool)
        for name, value in columns.items():
            rows &= self._having(name, value)
        if not rows.any():
            condition = " and ".join(f"{name}={value!r}" for name, value in columns.items())
            raise BadTable(f"no row has {condition}: filter by fewer columns")
        split = columns.get("split")
        return replace(self.rows(rows), split=split if isinstance(split, str) else self.split)

    def _having(self, name: str, value: Any) -> NDArray[np.bool_]:
        """Whether each row has the value, or one of the values, in a column, (n,)."""
        columns: dict[str, list[set[Any]]] = {
            "id": [{query.id} for query in self.queries],
            "domain": [{query.domain} - {None} for query in self.queries],
            "tags": [set(query.tags) for query in self.queries],
            "data_class": [{query.data_class} for query in self.queries],
            "split": [{split} - {None} for split in self.splits],
            "group": [{group} for group in self.groups],
        }
        columns = {column: cells for column, cells in columns.items() if any(cells)}
        if name not in columns:
            raise BadTable(f"no column '{name}' to filter by: there are {', '.join(columns)}")
        values = [value] if isinstance(value, str) else list(value)
        present: set[Any] = set().union(*columns[name])
        if absent := [one for one in values if one not in present]:
            raise BadTable(f"no row has {name} '{absent[0]}': there are {_some(sorted(present))}")
        return np.array([not row.isdisjoint(values) for row in columns[name]])

    def pool(self, experts: Sequence[str]) -> Outcomes:
        """Selects experts, in the given order; raises BadTable for unknown or repeated names."""
        check_names(experts, self.experts)
        columns = [self.experts.index(name) for name in experts]
        return replace(
            self,
            experts=tuple(experts),
            measures={name: table[:, columns] for name, table in self.measures.items()},
            answers=None if self.answers is None else self.answers[:, columns],
        )

    def at_prices(
        self, answer: Mapping[str, float] | None = None, verify: Mapping[str, float] | None = None
    ) -> Outcomes:
        """The same outcomes with fixed costs per answer, and per verification, of some experts.

        Costs are in US$ or any other unit. Raises BadTable for an unknown expert.
        """
        measures = dict(self.measures)
        for measure, prices in (("cost", answer or {}), ("verify_cost", verify or {})):
            check_names(list(prices), self.experts)
            columns = [self.experts.index(name) for name in prices]
            if columns:
                unknown = np.full((len(self), len(self.experts)), np.nan)
                measures[measure] = measures.get(measure, unknown).copy()
                measures[measure][:, columns] = list(prices.values())
        return replace(self, measures=measures)

    @cached_property
    def charges(self) -> Array:
        """The cost of each answer for sums and means, (n, e) in US$; unknown costs are filled in.

        A scored answer with an unknown cost gets the mean cost of that expert's other answers.
        This leaves the expert's mean unchanged, and a strategy that adds up several costs never
        counts an answer as free. In a table without any costs every answer is free. The charge is
        NaN if an expert gave no answer, or if all its costs are unknown.
        """
        finite = np.isfinite(self.cost)
        if not finite.any():
            return np.zeros_like(self.cost)
        count = finite.sum(axis=0)
        total = np.where(finite, self.cost, 0.0).sum(axis=0)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return np.where(np.isfinite(self.score) & ~finite, mean, self.cost)

    def costed(self) -> Outcomes:
        """The same outcomes with `charges` as costs, so that subsets of rows have the same charges
        as the whole table. A table without any costs is returned unchanged."""
        if not np.isfinite(self.cost).any():
            return self
        return replace(self, measures={**self.measures, "cost": self.charges})

    def record(self, row: int) -> dict[str | tuple[str, str], Answer]:
        """Every expert's answers to one query, in the form that `drive.replay` reads.

        A verification costs `verify_cost::m`; without that column it costs as much as the answer,
        as in AutoMix (arXiv 2310.12963, section 4). A judgement returns the reward, or the score
        in a table without rewards, and costs `reward_cost::m`; without that column it is free, as
        a small local model costs almost nothing.
        """
        answers: dict[str | tuple[str, str], Answer] = {}
        for m, expert in enumerate(self.experts):
            score = self._cell("score", row, m)
            if score is None:
                continue
            cost = float(np.nan_to_num(self.charges[row, m]))
            reply = None if self.answers is None else self.answers[row, m]
            answers[expert] = Answer(
                expert,
                text=reply or "",
                cost=cost,
                score=score,
                latency=self._cell("latency", row, m) or float("nan"),
                output_tokens=int(self._cell("out_tokens", row, m) or 0),
                logprobs=None if (logprob := self._cell("logprob", row, m)) is None else (logprob,),
            )
            answers[expert, "judge"] = Answer(
                expert,
                kind="judge",
                reward=self._cell("reward", row, m) if "reward" in self.measures else score,
                cost=self._cell("reward_cost", row, m) or 0.0,
            )
            confidence = self._cell("verify", row, m)
            # Verdicts without a confidence arrived, and none of them could be read.
            if confidence is not None or self._cell("verdicts", row, m) is not None:
                verify_cost = self._cell("verify_cost", row, m)
                answers[expert, "verify"] = Answer(
                    expert,
                    kind="verify",
                    confidence=confidence,
                    cost=cost if verify_cost is None else verify_cost,
                )
        return answers

    def _cell(self, measure: str, row: int, m: int) -> float | None:
        table = self.measures.get(measure)
        if table is None or np.isnan(table[row, m]):
            return None
        return float(table[row, m])


def fingerprints(queries: Sequence[Query]) -> Fingerprints:
    """Sorted 64-bit hashes of the prompts, without case, character width and spacing.

    >>> fingerprints([Query.of(" What is\\n2 + 2?")]) == fingerprints([Query.of("what is 2 + 2?")])
    array([ True])
    """
    hashed = [int.from_bytes(_hash(query.full_text), "big") for query in queries]
    return np.sort(np.array(hashed, dtype=np.uint64))


def _hash(text: str) -> bytes:
    plain = " ".join(nfkc(text).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=8).digest()


# --- reading -------------------------------------------------------------------------------


def read(
    paths: Path | str | Sequence[Path | str],
    *,
    experts: Sequence[str] | None = None,
    split: str = ALL,
    data_class: DataClass = "public",
    drop_duplicates: bool = False,
    unscored: bool = False,
) -> Outcomes:
    """Reads, joins and checks outcome tables.

    `split` selects rows by their `split` column; `all` takes every row, and a table without that
    column is used as a whole. Rows that state no data class have `data_class`. In a table with
    rewards but no scores the rewards become the scores: unchanged if all are in 0..1, otherwise
    scaled linearly from 0 (lowest) to 1 (highest). With `drop_duplicates` the first of the rows of
    one query in a file counts, and a warning says how many others there are. With `unscored`, a
    table may have answers and no score at all. Raises BadTable for anything that cannot be used.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> print(rw.read(example() / "outcomes.parquet", split="dev"))  # doctest: +ELLIPSIS
    60 queries in 12 domains, split 'dev'
    expert   scored   quality   US$ per 1,000
    abacus       60   ...
    """
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not files:
        raise BadTable("no outcome table is given: name at least one file")
    frames = [table(path, drop_duplicates=drop_duplicates) for path in files]
    frame = _scored(frames[0] if len(frames) == 1 else reduce(join, frames))
    frame = _keep_split(frame, split, files)
    names = _experts(frame, files, unscored)
    if experts is not None:
        check_names(experts, names)
        names = tuple(experts)
    outcomes = _outcomes(frame, names, files, split, data_class)
    if not np.isfinite(outcomes.score).any() and not (unscored and outcomes.answers is not None):
        raise BadTable(
            f"{_quoted(files)}: no score is known for {', '.join(names)}: {HOW_TO_SCORE}"
        )
    return outcomes


def table(path: Path, *, drop_duplicates: bool = False) -> pl.DataFrame:
    """One outcome table or query set, checked, with the columns of its queries as `rows` writes
    them. Queries without an `id` get a hash of their messages; `drop_duplicates` as in `read`.
    Raises BadTable."""
    return _typed(_frame(path, drop_duplicates), path)


def save(frame: pl.DataFrame, path: Path) -> None:
    """Writes Parquet, or JSONL if the path ends in `.jsonl`, atomically. Raises BadInput."""
    with files.replacing(path) as partial:
        if path.suffix == ".jsonl":
            frame.write_ndjson(partial)
        else:
            write_parquet(frame, partial)


def save_parts(
    parts: Iterable[pl.DataFrame], schema: Mapping[str, pl.DataType], path: Path
) -> None:
    """Writes tables of the same columns to one file, as `save` does; memory holds one at a time."""
    with files.replacing(path) as partial:
        write_parts(parts, schema, partial)


def write_parts(
    parts: Iterable[pl.DataFrame], schema: Mapping[str, pl.DataType], path: Path
) -> None:
    """Writes tables of the same columns to one file. Raises OSError, and what `parts` raises."""
    from polars.io.plugins import register_io_source

    failures: list[BaseException] = []

    def batches(*_: Any) -> Iterator[pl.DataFrame]:
        try:
            yield from parts
        except BaseException as error:  # which Polars would tell as one of its own
            failures.append(error)
            raise

    frame = register_io_source(batches, schema=schema)
    try:
        if path.suffix == ".jsonl":
            frame.sink_ndjson(path)
        else:
            frame.sink_parquet(path)
    except pl.exceptions.PolarsError as error:
        if failures:
            raise failures[0] from None
        raise OSError(str(error).rpartition("IO error: ")[2]) from error


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes a Parquet file. Raises OSError, also where Polars has an error of its own for it."""
    try:
        frame.write_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise OSError(str(error).rpartition("IO error: ")[2]) from error


def check_ending(path: Path) -> None:
    """Raises BadInput if `save` has no format for the path; call it before the work starts."""
    if path.suffix not in (".parquet", ".jsonl"):
        raise BadInput(f"'{path}' must end in .parquet or .jsonl")


def tags_of(queries: Sequence[Query], kind: str = "table") -> list[tuple[str, ...]]:
    """The tags of each query: those of the `table` (its domains if it has no tags at all), its
    `domain`, or `none`. Raises BadInput for another kind."""
    domains = [(query.domain,) if query.domain else () for query in queries]
    own = [query.tags for query in queries]
    kinds = {"table": own if any(own) else domains, "domain": domains, "none": [()] * len(queries)}
    if kind not in kinds:
        raise BadInput(f"tags '{kind}' is not one of {', '.join(kinds)}")
    return list(kinds[kind])


def check_names(names: Sequence[str], experts: Sequence[str]) -> None:
    """Raises BadTable if a name is not one of the experts, or occurs twice."""
    for name in names:
        if name not in experts:
            close = difflib.get_close_matches(name, experts, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise BadTable(f"no expert '{name}': {hint}the table has {', '.join(experts)}")
    if twice := _repeated(names):
        raise BadTable(f"expert '{twice[0]}' is named twice")


def _frame(path: Path, drop_duplicates: bool) -> pl.DataFrame:
    if wrong := source.not_a_table(path, "an outcome table", endings.ENDINGS):
        raise wrong
    parquet.check_regular(path)
    ending = endings.ending(path)
    hint = "" if ending in endings.ENDINGS else f" (tables end in {', '.join(endings.ENDINGS)})"
    what = f"a readable outcome table{hint}"
    if ending in TEXT_READERS:
        lines = list(query_sets.lines(path))
        try:
            frame = TEXT_READERS[ending](path, lines) if lines else pl.DataFrame()
            return _wide(_with_queries(frame, lines, path, drop_duplicates), path, drop_duplicates)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise BadTable(f"'{path}' is not {what}: {first}") from error
    frame = parquet.read(path, what)
    source.check_columns(frame.columns, f"'{path}'")
    cells = frame.select(column for column in frame.columns if "::" not in column)
    lines = [(f"'{path}' row {n}", row) for n, row in enumerate(cells.iter_rows(named=True), 1)]
    return _with_queries(frame, lines, path, drop_duplicates)


def _jsonl(path: Path, lines: Sequence[Line]) -> pl.DataFrame:
    """The lines as a frame; the columns of queries are empty, because in a column of messages
    Polars would give every message the fields of every other."""
    for place, cells in lines:
        if odd := [column for column in cells if rows.whole(column) != column]:
            raise BadTable(f"{place}: the name {odd[0][:60]!r} is not text")
    others = ({**cells, **dict.fromkeys(rows.COLUMNS)} for _, cells in lines)
    text = "\n".join(json.dumps(cells, ensure_ascii=False) for cells in others)
    frame = pl.read_ndjson(text.encode("utf-8", "replace"), infer_schema_length=None)
    order = dict.fromkeys(column for _, cells in lines for column in cells)
    return frame.select(list(order))  # the order of Polars varies between runs


def _csv(path: Path, lines: Sequence[Line]) -> pl.DataFrame:
    separator = source.SEPARATORS[endings.ending(path)]
    text = source.text(path).encode("utf-8", "replace")
    frame = pl.read_csv(text, infer_schema_length=None, separator=separator)
    empty = pl.all().cast(pl.String).fill_null("") == ""
    frame = frame.filter(~pl.all_horizontal(empty))
    if len(frame) != len(lines):
        raise BadTable(f"'{path}': a cell with a line break must be in double quotes")
    return frame


TEXT_READERS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _jsonl),
    **dict.fromkeys((".csv", ".tsv"), _csv),
}


def _with_queries(
    frame: pl.DataFrame, lines: Sequence[Line], path: Path, drop_duplicates: bool
) -> pl.DataFrame:
    """The frame with the columns of its queries read from `lines`, and written by `rows`."""
    if not lines:
        raise BadTable(f"'{path}' has no rows")
    renamed = [rows.renamed(cells) for _, cells in lines]
    if not {"prompt", "messages"} & {*frame.columns, *_filled(renamed)}:
        raise rows.no_words(renamed[0], lines[0][0])
    queries = [rows.query(cells, place) for place, cells in lines]
    if not _is_long(frame):
        if drop_duplicates:
            positions, queries = rows.distinct(queries)
            rows.tell_dropped(len(lines) - len(positions), f"'{path}'")
            frame, lines = frame[positions], [lines[n] for n in positions]
            renamed = [renamed[n] for n in positions]
        rows.check_distinct(zip((place for place, _ in lines), queries, strict=True))
    stored = [_stored(query, cells) for query, cells in zip(queries, renamed, strict=True)]
    columns = {name: [cells[name] for cells in stored] for name in rows.COLUMNS}
    original = _filled(rows.asked(cells) for _, cells in lines)
    return frame.drop(original - _filled(renamed)).with_columns(
        pl.Series(name, values, pl.List(pl.String) if name == "tags" else pl.String)
        for name, values in columns.items()
        if name in frame.columns or any(value is not None for value in values)
    )


def _filled(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    return {column for cells in lines for column, value in cells.items() if value is not None}


def _stored(query: Query, read: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a query in a table.

    Unknown cells stay empty, so that another table can fill them in. Cells that the query does not
    use are kept: a prompt beside messages, the options of a multiple-choice question.
    """
    cells = rows.flat(rows.row(query))
    prompt, options = read.get("prompt"), read.get("options")
    if query.messages == UNKNOWN and not read.get("messages"):
        cells["messages"] = None
    if isinstance(prompt, str) and prompt and rows.whole(prompt) == prompt:
        cells["prompt"] = prompt
    if options and cells["options"] is None:
        cells["options"] = options if isinstance(options, str) else rows.dumps(options)
    stated = read.get("data_class") or None
    return {**cells, "data_class": stated if query.data_class == "public" else query.data_class}


def _is_long(frame: pl.DataFrame) -> bool:
    """Whether the frame has one row per query and expert."""
    columns = {"expert", "model", "score"} & set(frame.columns)
    return bool(columns) and not any("::" in column for column in frame.columns)


def _wide(long: pl.DataFrame, path: Path, drop_duplicates: bool) -> pl.DataFrame:
    """Converts one row per query and expert to one row per query; other frames are unchanged."""
    if not _is_long(long):
        return long
    names = {old: new for old, new in LONG_NAMES.items() if new not in long.columns}
    long = long.rename(names, strict=False)
    if missing := {"id", "expert", "score"} - set(long.columns):
        raise BadTable(f"'{path}': long outcomes need the fields {', '.join(sorted(missing))}")
    check_questions([long], f"'{path}'")
    firsts = first_rows(long, path, drop_duplicates)
    cells = [c for c in (*MEASURES, "answer", "text") if c in long.columns]
    facts = [c for c in long.columns if c not in (*cells, "expert", "id")]
    if "region" in facts:
        for id, regions in long.group_by("id", maintain_order=True).agg("region").iter_rows():
            rows.one_region(id, regions)
    wide = long.group_by("id", maintain_order=True).agg(map(_of_group, facts))
    for cell in cells:
        spread = firsts.pivot("expert", index="id", values=cell)
        spread = spread.rename({c: f"{cell}::{c}" for c in spread.columns if c != "id"})
        wide = wide.join(spread, on="id", how="left")
    return wide


def first_rows(long: pl.DataFrame, path: Path, drop_duplicates: bool) -> pl.DataFrame:
    """One row per `id` and `expert`. Raises BadTable if there are more, or drops all but the first
    with a warning."""
    doubles = ~pl.struct("id", "expert").is_first_distinct()
    others = long.filter(doubles)
    if drop_duplicates:
        rows.tell_dropped(len(others), f"'{path}'")
        return long.filter(~doubles)
    if len(others):
        twice = others.row(0, named=True)
        raise BadTable(
            f"'{path}': query '{twice['id']}' has two rows for '{twice['expert']}' ({len(others)}"
            " such rows): keep one of them, or use --drop-duplicates"
        )
    return long


def _of_group(column: str) -> pl.Expr:
    """The cell of a query, from all lines about it."""
    cell = pl.col(column)
    if column == "data_class":
        return _strictest({name: (cell == name).any() for name in DATA_CLASSES}).alias(column)
    return cell.drop_nulls().first() if column == "region" else cell.first()


def _typed(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Converts the columns of experts to text and numbers, and checks their ranges."""
    frame = _with_texts(frame, path)
    cells = [c for c in frame.columns if c.split("::", 1)[0] in MEASURES and "::" in c]
    try:
        frame = frame.with_columns(pl.col(cells).cast(pl.Float64).fill_nan(None))
    except pl.exceptions.PolarsError as error:
        first = str(error).splitlines()[0][:200]
        raise _not_number(frame, cells, path) or BadTable(
            f"'{path}': scores and costs must be numbers: {first}"
        ) from error
    frame = clipped(frame, f"'{path}'")
    for column in cells:
        _check_range(frame, column, path)
    return frame


def _not_number(frame: pl.DataFrame, cells: Sequence[str], path: Path) -> BadTable | None:
    """The error for the first cell that must be a number and is text."""
    for column in (c for c in cells if frame[c].dtype == pl.String):
        odd = frame.filter(
            pl.col(column).is_not_null() & pl.col(column).cast(pl.Float64, strict=False).is_null()
        )
        if len(odd):
            row = odd.row(0, named=True)
            comma = "," in row[column]
            advice = "write decimals with a point" if comma else "leave unknown cells empty"
            if comma and endings.ending(path) == ".tsv":
                advice += f" ({source.rewriting(path)})"
            return BadTable(
                f"'{path}': {column} is {row[column][:40]!r} in row '{row['id']}' and must be a"
                f" number: {advice} ({len(odd)} such rows)"
            )
    return None


def _with_texts(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Converts answers and splits to text: 7 and 7.0 are both '7'."""
    for column in frame.columns:
        if column == "split" or column.startswith(("answer::", "text::")):
            cell = pl.col(column)
            try:
                if frame[column].dtype.is_float():
                    whole = (cell == cell.floor()) & (cell.abs() < 2**53)
                    number = pl.when(whole).then(cell).cast(pl.Int64).cast(pl.String)
                    frame = frame.with_columns(pl.coalesce(number, cell.cast(pl.String)))
                else:
                    frame = frame.with_columns(cell.cast(pl.String))
            except pl.exceptions.PolarsError as error:
                kind = frame[column].dtype
                raise BadTable(f"'{path}': {column} must be text, not {kind}") from error
    return without_unread(frame)


def without_unread(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without answers that are blank or a filter's word for "no answer was found".

    Two experts whose answers could not be read have not given the same answer.
    """
    texts = [c for c in frame.columns if c.startswith("answer::") and frame[c].dtype == pl.String]
    return frame.with_columns(
        pl.when(~pl.col(c).str.strip_chars().str.to_lowercase().is_in(UNREAD)).then(pl.col(c))
        for c in texts
    )


def clipped(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """The frame with scores, and other measures of 0..1, that leave it by ROUNDING at most as 0 or
    1, and costs just below 0 as 0; a warning with the `source` says how many."""
    bounds = {
        **dict.fromkeys(UNIT_RANGE, (0.0, 1.0, ROUNDING)),
        **dict.fromkeys(NOT_NEGATIVE, (0.0, np.inf, ROUNDING**2)),  # a cost may be 1e-7 US$
        **dict.fromkeys(NOT_POSITIVE, (-np.inf, 0.0, ROUNDING)),
    }
    changed = {}
    for column in frame.columns:
        measure, separator, _ = column.partition("::")
        if separator and measure in bounds and frame[column].dtype.is_float():
            low, high, most = bounds[measure]
            nearest = pl.col(column).clip(low, high)
            off = (pl.col(column) - nearest).abs()
            near = frame.select((off > 0) & (off <= most)).to_series()
            if near.any():
                changed[column] = int(near.sum())
                frame = frame.with_columns(pl.when(off <= most).then(nearest).otherwise(column))
    if changed:
        column = next(iter(changed))
        limits = "0..1" if column.partition("::")[0] in UNIT_RANGE else "their range"
        warnings.warn(
            f"{source}: {sum(changed.values())} cells of {_some(list(changed))} are outside"
            f" {limits} by rounding (at most {ROUNDING:g}) and are read as its end",
            DataWarning,
            stacklevel=2,
        )
    return frame


def _check_range(frame: pl.DataFrame, column: str, path: Path) -> None:
    measure = column.split("::", 1)[0]
    cell = pl.col(column)
    wrong = cell.is_infinite()
    if measure in UNIT_RANGE:
        wrong = wrong | (cell < 0) | (cell > 1)
    elif measure in NOT_NEGATIVE:
        wrong = wrong | (cell < 0)
    elif measure in NOT_POSITIVE:
        wrong = wrong | (cell > 0)
    bad = frame.filter(wrong & cell.is_not_nan())
    if len(bad):
        bounds = "finite and not negative"
        bounds = "in 0..1" if measure in UNIT_RANGE else bounds
        bounds = "finite and not positive" if measure in NOT_POSITIVE else bounds
        row = bad.row(0, named=True)
        raise BadTable(
            f"'{path}': {column} is {row[column]:.12g} in row '{row['id']}' and must be {bounds}"
            f" ({len(bad)} such rows)"
        )


def join(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Joins rows of the same id; the strictest data class counts.

    Raises BadTable if the question, a cell of an expert or the region differs between tables.
    """
    check_questions([left, right], "the joined table")
    shared = [c for c in right.columns if c in left.columns and c != "id"]
    joined = left.join(
        right, on="id", how="full", coalesce=True, suffix="\0", maintain_order="left_right"
    )
    for column in shared:
        first, second = pl.col(column), pl.col(f"{column}\0")
        if "::" in column or column == "region":
            clash = joined.filter(first.is_not_null() & second.is_not_null() & (first != second))
            if len(clash):
                raise BadTable(
                    f"the tables disagree on {column} of row '{clash['id'][0]}':"
                    f" {clash[column][0]} and {clash[f'{column}' + chr(0)][0]}"
                )
        both = pl.coalesce(first, second)
        if column == "data_class":
            is_class = {name: (first == name) | (second == name) for name in DATA_CLASSES}
            both = _strictest(is_class)
        joined = joined.with_columns(both.alias(column)).drop(f"{column}\0")
    return joined


def check_questions(frames: Sequence[pl.DataFrame], source: str) -> None:
    """Raises BadTable, which names the `source`, if an id stands for two questions."""
    names = ("id", "prompt", "messages", "stem_sha")
    columns = [
        [pl.col(c).cast(pl.String) for c in names if c in f.columns and not f[c].dtype.is_nested()]
        for f in frames
    ]
    cells = pl.concat(
        [frame.select(exprs) for frame, exprs in zip(frames, columns, strict=True)], how="diagonal"
    )
    cells = cells.unique(maintain_order=True)
    repeated = cells.filter(pl.col("id").is_not_null() & pl.col("id").is_duplicated())
    rows.check_one_question(repeated.iter_rows(named=True), source)


def _strictest(is_class: Mapping[DataClass, pl.Expr]) -> pl.Expr:
    """The strictest data class whose expression is true; null if none is."""
    order = reversed(DATA_CLASSES)
    return pl.coalesce(pl.when(is_class[name]).then(pl.lit(name)) for name in order)


def _scored(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with scores; without any, they are made from the rewards (see `read`)."""
    rewards = [column for column in frame.columns if column.startswith("reward::")]
    graded = [column for column in frame.columns if column.startswith("score::")]
    if not rewards or any(frame[column].count() for column in graded):
        return frame
    frame = frame.drop(graded)
    values = frame.select(pl.col(rewards).cast(pl.Float64).fill_nan(None))
    least = min((v for v in values.min().row(0) if v is not None), default=0.0)
    most = max((v for v in values.max().row(0) if v is not None), default=1.0)
    if least < -ROUNDING or most > 1 + ROUNDING:
        values = values.select((pl.col(rewards) - least) / max(most - least, 1e-300))
    values = values.select(pl.all().clip(0, 1))
    scores = values.rename(lambda column: column.replace("reward::", "score::", 1))
    return frame.with_columns(scores.get_columns())


def _keep_split(frame: pl.DataFrame, split: str, files: Sequence[Path]) -> pl.DataFrame:
    if split == ALL or "split" not in frame.columns:
        return frame
    selected = frame.filter(pl.col("split") == split)
    if not len(selected):
        splits = ", ".join(sorted(str(s) for s in frame["split"].unique().to_list()))
        advice = (
            "; `interview --hold-out 0.2` holds some rows out and pays for no answer twice"
            if split == "dev"
            else ""
        )
        raise BadTable(
            f"{_quoted(files)}: no row has split '{split}'; there are {splits}"
            f" (or --split all){advice}"
        )
    return selected


def _experts(frame: pl.DataFrame, files: Sequence[Path], unscored: bool) -> tuple[str, ...]:
    names = tuple(c.removeprefix("score::") for c in frame.columns if c.startswith("score::"))
    if unscored and not names:
        names = tuple(c.removeprefix("answer::") for c in frame.columns if c.startswith("answer::"))
    if not names:
        raise BadTable(
            f"{_quoted(files)}: no column is called score::EXPERT; there are"
            f" {_some(frame.columns)}; for a query set, `routewright interview` asks the"
            " experts first and writes the table"
        )
    if "" in names:
        raise BadTable(f"{_quoted(files)}: column 'score::' has no expert's name after the colons")
    return names


def _outcomes(
    frame: pl.DataFrame,
    experts: tuple[str, ...],
    files: Sequence[Path],
    split: str,
    data_class: DataClass,
) -> Outcomes:
    present = {c.split("::", 1)[0] for c in frame.columns if "::" in c}
    measures = {m: _cells(frame, m, experts) for m in MEASURES if m in present}
    for measure in ("score", "cost"):
        measures.setdefault(measure, np.full((len(frame), len(experts)), np.nan))
    answers = None
    if "answer" in present:
        columns = [_column(frame, "answer", expert).to_list() for expert in experts]
        answers = np.array(columns, dtype=object).T.reshape(len(frame), len(experts))
    queries = queries_of(frame, data_class)
    return Outcomes(
        experts=experts,
        queries=tuple(queries),
        measures=measures,
        answers=answers,
        sources=tuple(str(path) for path in files),
        split=split if "split" in frame.columns else ALL,
        groups=groups_of(frame, queries),
        splits=tuple(frame["split"].to_list()) if "split" in frame.columns else (),
    )


def groups_of(frame: pl.DataFrame, queries: Sequence[Query]) -> tuple[str, ...]:
    """The group of each row: its `group`, its `stem_sha` or a hash of its text. Ids do not identify
    a question, because one that was asked twice has two."""
    names = [_hash(query.full_text).hex() for query in queries]
    for column in ("stem_sha", "group"):
        if column in frame.columns:
            try:
                cells = frame[column].cast(pl.String).to_list()
            except pl.exceptions.PolarsError as error:
                kind = frame[column].dtype
                raise BadTable(f"the column {column} must be text, not {kind}") from error
            names = [cell or name for cell, name in zip(cells, names, strict=True)]
    return tuple(names)


def with_splits(frame: pl.DataFrame, share: float) -> pl.DataFrame:
    """The table with the columns `group` and `split`; a split that a row has already stays.

    A hash of the prompt decides: `share` (0 to 0.5) of the rows are `dev`, as many `test`, and the
    others `train`. So a query is in the same split in every table. Rows of one group are in the
    split of the one with the lowest hash.
    """
    queries = queries_of(frame)
    groups = groups_of(frame, queries)
    lots: dict[str, float] = {}
    for group, query in zip(groups, queries, strict=True):
        lots[group] = min(query_sets.lot(query), lots.get(group, 1.0))
    drawn = [
        "dev" if n < share else "test" if n < 2 * share else "train"
        for n in (lots[group] for group in groups)
    ]
    split = pl.Series("split", drawn)
    if "split" in frame.columns:
        split = frame["split"].cast(pl.String).fill_null(split)
    return frame.with_columns(pl.Series("group", groups), split)


def _cells(frame: pl.DataFrame, measure: str, experts: Sequence[str]) -> Array:
    columns = [_column(frame, measure, expert) for expert in experts]
    numbers = [column.cast(pl.Float64).fill_null(float("nan")).to_numpy() for column in columns]
    return np.column_stack(numbers).astype(np.float64)


def _column(frame: pl.DataFrame, measure: str, expert: str) -> pl.Series:
    name = f"{measure}::{expert}"
    if name in frame.columns:
        return frame[name]
    return pl.Series(name, [None] * len(frame))


def queries_of(frame: pl.DataFrame, data_class: DataClass = "public") -> list[Query]:
    """The queries of a table or query set, with their data classes and regions.

    Rows that state no data class have `data_class`. Raises BadTable for a cell that cannot be read.
    """
    cells = frame.select(column for column in frame.columns if column in rows.COLUMNS)
    lines = enumerate(cells.iter_rows(named=True), 1)
    return [rows.query(row, f"row {n}", data_class) for n, row in lines]


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _quoted(files: Sequence[Path]) -> str:
    return ", ".join(f"'{path}'" for path in files)


def _some(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:8])
    return shown + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
