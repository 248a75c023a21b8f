"""Query sets in the formats that people have, and what grading them takes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from routewright.data import queries
from routewright.errors import BadInput


def read(folder: Path, name: str, text: str, **how) -> list[queries.Item]:
    (folder / name).write_text(text, encoding="utf-8")
    return queries.read(folder / name, **how)


def test_jsonl_with_our_names_and_with_those_of_others(tmp_path: Path):
    ours = {"id": 7, "prompt": "2 + 2?", "domain": "sums", "tags": ["easy"], "reference": 4}
    theirs = {"query_id": 7, "question": "2 + 2?", "task": "sums", "tags": ["easy"], "target": 4}
    lines = json.dumps({**ours, "split": "dev", "choices": ["3", "4"]})
    [one] = read(tmp_path, "q.jsonl", lines)
    assert (one.query.id, one.query.text, one.query.domain) == ("7", "2 + 2?", "sums")
    assert (one.query.tags, one.references, one.split) == (("easy",), ("4",), "dev")
    assert one.facts == {"choices": ["3", "4"]}
    [other] = read(tmp_path, "r.jsonl", json.dumps(theirs), split="dev")
    assert (other.query, other.reference, other.split) == (one.query, 4, "dev")


def test_csv_and_parquet_hold_the_same_items(tmp_path: Path):
    chat = json.dumps(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    text = (
        f'id,messages,tags,choices\na,"{chat.replace(chr(34), chr(34) * 2)}",x;y,"[""p"",""q""]"\n'
    )
    [from_csv] = read(tmp_path, "q.csv", text)
    frame = {"id": ["a"], "messages": [chat], "tags": [["x", "y"]], "choices": [["p", "q"]]}
    pl.DataFrame({**frame, "score::small": [1.0]}).write_parquet(tmp_path / "q.parquet")
    [from_parquet] = queries.read(tmp_path / "q.parquet")
    assert from_csv == from_parquet
    assert from_csv.query.text == "Hi"
    assert from_csv.query.messages[0]["role"] == "system"


def test_queries_without_an_id_are_named_after_their_words(tmp_path: Path):
    first = read(tmp_path, "a.jsonl", '{"prompt": "one"}\n{"prompt": "two"}')
    second = read(tmp_path, "b.jsonl", '{"prompt": "two"}\n{"prompt": "three"}')
    assert first[1].query.id == second[0].query.id != first[0].query.id


def test_what_is_written_is_read_back(tmp_path: Path):
    rows = [
        {"id": "a", "prompt": "p", "reference": ["x", "y"], "grader": "f1", "rubric": "short"},
        {
            "id": "b",
            "messages": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}],
        },
        {"id": "c", "prompt": "q", "data_class": "internal", "options": {"temperature": 0}},
    ]
    before = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    queries.write(before, tmp_path / "b.jsonl")
    assert queries.read(tmp_path / "b.jsonl") == before


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"prompt": " "}', "line 1 has neither"),
        ('{"messages": []}', "`messages` must be a list such as"),
        ('{"messages": [{"role": "user"}]}', "`messages` must be a list such as"),
        ('{"prompt": "a", "tags": {"x": 1}}', "`tags` must be a list"),
        ('{"prompt": "a", "options": 3}', "`options` must be an object"),
        ("[1]", "is not an object"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(tmp_path: Path, row, complaint):
    with pytest.raises(BadInput, match="line 1") as told:
        read(tmp_path, "q.jsonl", row)
    assert complaint in str(told.value)


def test_files_that_are_no_query_sets(tmp_path: Path):
    (tmp_path / "q.parquet").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="not a Parquet file"):
        queries.read(tmp_path / "q.parquet")
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        queries.read(tmp_path / "q.jsonl")
    with pytest.raises(BadInput, match="no file"):
        queries.read(tmp_path / "none.csv")
