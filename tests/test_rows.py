"""A query written to any of our files, and read by any of our readers, is the same query."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes, queries
from routewright.data.queries import Item
from routewright.drive import replay
from routewright.errors import BadInput, BadTable
from routewright.gateway.feedback import Feedback
from routewright.grading.graders import Grade
from routewright.interview import interview
from routewright.interview.interview import Cell
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Decision, Query

FORMATS = ("jsonl", "csv", "parquet")
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi", "name": "ann"},
]


def save(folder: Path, ending: str, *lines: dict) -> Path:
    """A file of the lines; tables hold lists and objects as JSON, but for Parquet's tags."""
    path = folder / f"t.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path
    nested = {"messages", "options", "choices"} | ({"tags"} if ending == "csv" else set())
    flat = [
        {k: json.dumps(v) if k in nested and not isinstance(v, str) else v for k, v in line.items()}
        for line in lines
    ]
    if ending == "parquet":
        pl.DataFrame(flat, infer_schema_length=None).write_parquet(path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for line in flat for k in line)))
        writer.writeheader()
        writer.writerows(flat)
    return path


def as_table(path: Path) -> list[Query] | str:
    try:
        return list(outcomes.read(path).queries)
    except BadInput as error:
        return str(error)


def as_set(path: Path) -> list[Query] | str:
    try:
        return [item.query for item in queries.read(path)]
    except BadInput as error:
        return str(error)


# --- one reading ---------------------------------------------------------------------------

SIMPLE = Query.of("2 + 2?", id="a")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("row", "query"),
    [
        ({"id": "a", "prompt": "2 + 2?"}, SIMPLE),
        ({"id": "a", "question": "2 + 2?"}, SIMPLE),
        ({"task_id": "a", "input": "2 + 2?"}, SIMPLE),
        ({"id": "a", "prompt": "2 + 2?", "subject": "sums"}, replace(SIMPLE, domain="sums")),
        ({"id": 7, "prompt": 5, "domain": 3}, Query.of("5", id="7", domain="3")),
        ({"id": "007", "prompt": "1.50"}, Query.of("1.50", id="007")),
        ({"id": "a", "prompt": "2 + 2?", "tags": "a; b"}, replace(SIMPLE, tags=("a", "b"))),
        ({"id": "a", "prompt": "2 + 2?", "tags": "a"}, replace(SIMPLE, tags=("a",))),
        (
            {"id": "a", "prompt": "2 + 2?", "tags": ["a; b", "[c"]},
            replace(SIMPLE, tags=("a; b", "[c")),
        ),
        ({"id": "a", "prompt": "2 + 2?", "tags": '["a", 7]'}, replace(SIMPLE, tags=("a", "7"))),
        (
            {"id": "a", "prompt": "2 + 2?", "options": {"temperature": 0, "stop": None}},
            replace(SIMPLE, options={"temperature": 0, "stop": None}),
        ),
        ({"id": "a", "prompt": "2 + 2?", "options": ["3", "4"]}, SIMPLE),  # of a choice
        (
            {"id": "a", "prompt": "2 + 2?", "data_class": "restricted", "region": "eu"},
            replace(SIMPLE, data_class="restricted", region="eu"),
        ),
        ({"id": "a", "messages": CHAT, "prompt": "Hi"}, Query(tuple(CHAT), id="a")),
        ({"id": "a", "messages": CHAT[:1]}, Query(tuple(CHAT[:1]), id="a")),
    ],
)
def test_a_row_is_the_same_query_in_a_table_and_in_a_query_set(
    tmp_path: Path, ending: str, row: dict, query: Query
):
    path = save(tmp_path, ending, {**row, "score::small": 1.0})
    assert as_table(path) == as_set(path) == [query]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_query_without_an_id_has_the_same_name_everywhere(tmp_path: Path, ending: str):
    [named] = as_set(save(tmp_path, "jsonl", {"prompt": "2 + 2?"}))
    path = save(tmp_path, ending, {"prompt": "2 + 2?", "score::small": 1.0})
    assert as_table(path) == as_set(path) == [named]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"data_class": "secret"},
            "data class 'secret' is unknown: choose public, internal, restricted",
        ),
        ({"tags": "[a"}, "`tags` is not JSON (Expecting value: line 1 column 2 (char 1)): write a"),
        ({"tags": '[["a"]]'}, "`tags` must be a list such as"),
        ({"messages": "[{"}, "`messages` is not JSON"),
        ({"messages": [{"content": "Hi"}]}, "`messages` must be a list such as"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "`messages` must be a list such as"),
        ({"options": "3"}, "`options` must be an object"),
        ({"id": "a"}, "are both called 'a': keep one of them"),
        ({"id": None}, "are both called 'q-"),
        ({"id": None, "prompt": None}, "has neither `prompt` nor `messages`"),
    ],
)
def test_a_row_that_cannot_be_read_is_the_same_mistake_everywhere(
    tmp_path: Path, ending: str, change: dict, complaint: str
):
    rows = [{"id": "a", "prompt": "1"}, {"id": None, "prompt": "2"}, {"id": "c", "prompt": "2"}]
    rows[2] |= change
    path = save(tmp_path, ending, *({**row, "score::small": 1.0} for row in rows))
    place = f"'{path}' row 3" if ending == "parquet" else f"'{path}' line {3 + (ending == 'csv')}"
    said = as_table(path)
    assert said == as_set(path)
    assert str(said).startswith(place), said
    assert complaint in said
    with pytest.raises(BadTable):
        queries.read(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_without_any_words_is_the_same_mistake_everywhere(tmp_path: Path, ending: str):
    path = save(tmp_path, ending, {"id": "a", "domain": "sums", "score::small": 1.0})
    assert as_table(path) == as_set(path)
    assert "has neither `prompt` nor `messages`; it has id, domain: name" in str(as_set(path))


@pytest.mark.parametrize("prompt", [None, " "])
def test_a_table_may_not_know_a_prompt_but_nobody_is_asked_nothing(tmp_path: Path, prompt):
    rows = [{"id": "a", "prompt": "2 + 2?"}, {"id": "b", "prompt": prompt}]
    path = save(tmp_path, "parquet", *({**row, "score::small": 1.0} for row in rows))
    assert as_table(path) == [SIMPLE, Query.of(prompt or "", id="b")]
    assert "row 2 has neither `prompt` nor `messages`: `prompt` is" in as_set(path)


# --- there and back ------------------------------------------------------------------------

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
QUERIES = {
    "plain": Query.of("What is 2 + 2?"),
    "system": Query(({"role": "system", "content": "Be brief."},)),
    "name": Query(({"role": "user", "content": "Hi", "name": "ann"},)),
    "parts": Query(
        ({"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]},)
    ),
    "tools": Query(
        (
            {"role": "user", "content": "Add 2 and 2."},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ),
        options={"tools": [TOOL], "temperature": 0.5, "stop": None},
    ),
    "turns": Query((*CHAT, {"role": "assistant", "content": "Hello"}, *CHAT[1:])),
    "half": Query.of("half \ud83d a pair"),
    "half system": Query(({"role": "system", "content": "\udc00"},), options={"stop": ["\ud83d"]}),
    "empty": Query.of(""),
    "blank": Query.of(" \n\t"),
    "empty chat": Query(({"role": "user", "content": ""}, {"role": "user", "content": ""})),
    "JSON": Query.of('[{"role": "user", "content": "Hi"}]'),
    "spaces": Query.of("  ä\r\n\x00 ; 中 \u2028 😀 "),
    "number": Query.of("1.50"),
    "tags": Query.of("tags", tags=("a; b", "[c", '["d"]', "", "7", "ü"), domain=""),
    "limits": Query.of("limits", data_class="restricted", region="eu", domain="sums"),
    "7": Query.of("an integer's id"),
    "007": Query.of("an agent's id"),
    "7.0": Query.of("a number's id"),
    "1e3": Query.of("another number's id"),
    "[x]": Query.of("a list's id"),
}
ALL = [replace(query, id=name) for name, query in QUERIES.items()]


def interviewed(path: Path, items: list[Item]) -> Path:
    answer = [Answer("small", text="4", cost=1e-5)]
    cells = {(i.query.id, "small"): Cell(i, "small", spent=answer, grade=Grade(1.0)) for i in items}
    interview.write(items, cells, path)
    return path


def scored(path: Path, asked: list[Query]) -> Path:
    kept = Feedback(path, answers=True)
    for query in asked:
        kept.remember(query.id, "default", replace(query, id=""), Decision(Answer("small", "4")))
        kept.score(query.id, 1.0)
    kept.journal.close()
    return path


def test_what_an_interview_writes_is_read_back(tmp_path: Path):
    path = interviewed(tmp_path / "t.parquet", [Item(query) for query in ALL])
    assert as_table(path) == ALL
    assert as_set(path) == ALL
    again = interviewed(tmp_path / "u.parquet", queries.read(path))
    assert as_table(again) == ALL
    assert pl.read_parquet(again).equals(pl.read_parquet(path))


@pytest.mark.parametrize("query", ALL, ids=list(QUERIES))
def test_an_interview_of_one_query_keeps_it(tmp_path: Path, query: Query):
    path = interviewed(tmp_path / "t.parquet", [Item(query)])
    assert as_table(path) == as_set(path) == [query]
    columns = pl.read_parquet(path).columns[:7]
    assert columns == ["id", "prompt", "messages", "domain", "tags", "split", "reference"]


def test_a_query_set_that_is_written_is_read_back(tmp_path: Path):
    queries.write([Item(query) for query in ALL], tmp_path / "q.jsonl")
    assert as_set(tmp_path / "q.jsonl") == ALL
    assert outcomes.queries_of(outcomes.table(tmp_path / "q.jsonl")) == ALL


def test_what_feedback_writes_is_read_alike_by_fit_and_interview(tmp_path: Path):
    path = scored(tmp_path / "feedback.jsonl", ALL)
    assert as_table(path) == ALL
    assert as_set(path) == ALL
    assert all(item.reference is None and "text" not in item.facts for item in queries.read(path))
    assert outcomes.table(path)["text::small"].to_list() == ["4"] * len(ALL)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_diversify_and_tag_write_is_read_back(tmp_path: Path, ending: str):
    queries.write([Item(query) for query in ALL], tmp_path / "q.jsonl")
    out = tmp_path / f"o.{ending}"
    args = ["diversify", str(tmp_path / "q.jsonl"), "--out", str(out), "--cosine", "2"]
    done = CliRunner().invoke(app, [*args, "--per-tag", "99", "--words", "99"])
    assert done.exit_code == 0, done.output
    left = {query.id: query for query in as_set(out)}
    assert len(left) >= len(ALL) - 3, "those that read alike are duplicates"
    assert left == {query.id: query for query in ALL if query.id in left}
    args = ["tag", str(tmp_path / "q.jsonl"), "--out", str(out), "--clusters", "2"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert [replace(q, tags=()) for q in as_set(out)] == [replace(q, tags=()) for q in ALL]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_command_that_adds_a_column_leaves_the_others_alone(tmp_path: Path, ending: str):
    row = {"id": "a", "prompt": "Hi", "messages": CHAT, "options": ["3", "4"], "score::small": 1.0}
    rows = [{**row, "data_class": "public", "gold": "3"}, {**row, "id": "b", "data_class": None}]
    before = outcomes.table(save(tmp_path, ending, *rows))
    args = ["tag", str(tmp_path / f"t.{ending}"), "--out", str(tmp_path / "o.parquet")]
    done = CliRunner().invoke(app, [*args, "--clusters", "2"])
    assert done.exit_code == 0, done.output
    after = pl.read_parquet(tmp_path / "o.parquet").drop("tags")
    assert after["data_class"].to_list() == ["public", None]
    assert after["prompt"].to_list() == ["Hi", "Hi"]
    assert [json.loads(cell) for cell in after["options"]] == [["3", "4"]] * 2
    assert after.equals(before)
    assert after.columns == list(rows[0])


def test_the_answers_of_a_long_table_are_not_the_right_ones(tmp_path: Path):
    """An outcome table is a query set too, and grading by what an expert said proves nothing."""
    row = {"id": "a", "prompt": "2 + 2?", "expert": "small", "score": 0, "answer": "5"}
    [item] = queries.read(save(tmp_path, "jsonl", row))
    assert (item.query, item.reference) == (SIMPLE, None)


# --- tables ----------------------------------------------------------------------------------


def test_a_wide_jsonl_table_has_its_experts_in_the_order_of_the_file(tmp_path: Path):
    names = [f"m{n}" for n in range(40, 0, -1)]
    row = {"id": "a", "prompt": "2 + 2?", **{f"score::{name}": 1 for name in names}}
    assert outcomes.read(save(tmp_path, "jsonl", row)).experts == tuple(names)


def test_a_table_that_names_no_data_class_opens_no_door(tmp_path: Path):
    """Rows of one id are joined, and the class that one file knows is that of the query."""
    first = {"id": "a", "prompt": "2 + 2?", "data_class": None, "score::small": 1.0}
    (tmp_path / "first").mkdir()
    paths = [
        save(tmp_path / "first", "jsonl", first, {**first, "id": "b", "data_class": "public"}),
        save(tmp_path, "jsonl", {"id": "a", "data_class": "restricted", "prompt": "2 + 2?"}),
    ]
    assert [q.data_class for q in outcomes.read(paths).queries] == ["restricted", "public"]


def test_a_prompt_that_one_table_does_not_know_is_that_of_the_other(tmp_path: Path):
    (tmp_path / "first").mkdir()
    paths = [
        save(tmp_path / "first", "csv", {"id": "a", "prompt": "", "score::small": 1.0}),
        save(tmp_path, "parquet", {"id": "a", "prompt": "2 + 2?", "score::large": 1.0}),
    ]
    assert list(outcomes.read(paths).queries) == [SIMPLE]


def test_csv_with_blank_lines_and_line_breaks_in_cells(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text('id,prompt,score::small\na,"2 +\n2?",1\n\n,,\nb,3?,0\n\n', encoding="utf-8")
    asked = [Query.of("2 +\n2?", id="a"), Query.of("3?", id="b")]
    assert as_table(path) == as_set(path) == asked
    assert outcomes.read(path).score.ravel().tolist() == [1, 0]


def test_a_recorded_answer_is_replayed_whatever_region_its_query_is_bound_to(tmp_path: Path):
    row = {"id": "a", "prompt": "2 + 2?", "region": "eu", "score::small": 1.0}
    table = outcomes.read(save(tmp_path, "jsonl", row))
    assert table.queries[0].region == "eu"
    assert replay(Fixed("small"), table.queries[0], table.record(0)).answer.score == 1
