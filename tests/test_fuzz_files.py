"""What files may hold: tables, configs and journals are read, or refused in one sentence."""

import json
import string
from contextlib import suppress

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from routewright.config import examine, load
from routewright.data import outcomes, queries
from routewright.data.journal import Journal, read
from routewright.errors import BadConfig, BadInput

numbers = st.integers(-(2**40), 2**40) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# --- outcome tables ------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
prompts = words.filter(str.strip)
unit = st.none() | st.floats(0, 1)
amounts = st.none() | st.floats(0, 1e6)


@st.composite
def tables(draw):
    """A wide table; in CSV an empty cell is a missing value, so no text of it is empty."""
    ids = draw(
        st.lists(
            st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    experts = draw(
        st.lists(
            st.sampled_from(["small", "large", "x-1", "a:b"]), min_size=1, max_size=3, unique=True
        )
    )

    def column(cells):
        return draw(st.lists(cells, min_size=len(ids), max_size=len(ids)))

    texts = prompts.filter(lambda text: text.strip() == text and not text.startswith("["))
    data = {"id": ids, "prompt": column(texts)}
    if draw(st.booleans()):
        data["domain"] = column(st.sampled_from(["sums", "words"]))
    if draw(st.booleans()):
        data["split"] = column(st.sampled_from(["train", "dev"]))
    for expert in experts:
        data[f"score::{expert}"] = column(unit)
        data[f"cost::{expert}"] = column(amounts)
        if draw(st.booleans()):
            data[f"answer::{expert}"] = column(texts.map(lambda text: f"is {text}"))
    data[f"score::{experts[0]}"][0] = 0.5
    floats = {name: pl.Float64 for name in data if name.startswith(("score", "cost"))}
    return pl.DataFrame(data, schema_overrides=floats)


@given(tables())
def test_a_table_is_the_same_in_every_format(folder, frame):
    paths = [folder / f"table.{ending}" for ending in ("parquet", "jsonl", "csv")]
    outcomes.save(frame, paths[0])
    outcomes.save(frame, paths[1])
    frame.write_csv(paths[2])
    first, *others = [outcomes.read(path) for path in paths]
    assert [query.text for query in first.queries] == frame["prompt"].to_list()
    for other in others:
        assert other.experts == first.experts
        assert other.queries == first.queries
        assert other.splits == first.splits
        assert other.measures.keys() == first.measures.keys()
        for name, cells in first.measures.items():
            np.testing.assert_array_equal(other.measures[name], cells)
        assert (other.answers is None) == (first.answers is None)
        if first.answers is not None:
            assert other.answers.tolist() == first.answers.tolist()


ENDINGS = st.sampled_from([".parquet", ".jsonl", ".ndjson", ".csv"])


def read_as_table(path):
    """Reads a file as a table and as a query set: both may only raise BadInput."""
    for reader in (outcomes.read, queries.read):
        with suppress(BadInput):
            reader(path)


@given(
    ENDINGS,
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
)
def test_any_bytes_are_a_table_or_bad_input(folder, ending, raw):
    path = folder / f"bytes{ending}"
    path.write_bytes(raw)
    read_as_table(path)


cells = st.fixed_dictionaries(
    {},
    optional={
        name: values | st.text(max_size=10)
        for name in (
            *("id", "prompt", "messages", "domain", "tags", "data_class", "region", "options"),
            *("split", "expert", "model", "score", "cost", "response", "reference", "choices"),
            *("score::a", "cost::a", "answer::a", "verify::a", "reward::b", "score::b"),
        )
    },
)


@given(st.lists(cells | values, max_size=4), st.sampled_from([".jsonl", ".ndjson"]))
def test_any_lines_of_json_are_a_table_or_bad_input(folder, lines, ending):
    path = folder / f"lines{ending}"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    read_as_table(path)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "prompt", "tags", "score::a", "options"]), st.text(max_size=8)
        )
    ),
    st.sampled_from([",", ";", "\t", '"']),
)
def test_any_cells_of_csv_are_a_table_or_bad_input(folder, rows, separator):
    names = sorted({name for row in rows for name in row})
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    path = folder / "cells.csv"
    path.write_text(
        "\n".join(separator.join(line) for line in lines), encoding="utf-8", errors="replace"
    )
    read_as_table(path)


@given(tables(), st.data())
def test_a_parquet_file_that_is_cut_off_is_bad_input(folder, frame, data):
    path = folder / "cut.parquet"
    outcomes.save(frame, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    for reader in (outcomes.read, queries.read):
        with pytest.raises(BadInput):
            reader(path)


# --- configs -------------------------------------------------------------------------------


def objects(**fields):
    odd = {name: st.one_of(field, field, values) for name, field in fields.items()}
    return st.fixed_dictionaries({}, optional=odd)


experts = objects(
    name=st.sampled_from(["small", "large", "", "a>b"]),
    provider=st.sampled_from(["openai", "sandbox", "nobody"]),
    base_url=st.sampled_from(["http://127.0.0.1:1/v1", "https://[", "http://x:99999", "ftp://x"]),
    model=st.text(max_size=5),
    api_key=st.sampled_from(["${NOT_SET}", "os.environ/NOT_SET", "sk-secret-value"]),
    input_per_mtok=numbers,
    capabilities=st.lists(st.sampled_from(["json", "tools", "x"])),
    data_classes=st.lists(st.sampled_from(["public", "secret"])),
    timeout=numbers,
    retries=numbers,
    options=objects(temperature=numbers),
    launch=objects(command=st.text(max_size=10), env=objects(A=st.text(max_size=3))),
)
policies = objects(
    strategy=st.sampled_from(["fixed", "auto", "cascade", "nothing"]),
    router=st.sampled_from(["router", "/", "../..", "\0"]),
    price=numbers,
    max_cost_fraction=numbers,
    fallback=st.lists(st.sampled_from(["small", "nobody"])),
    options=objects(expert=st.sampled_from(["small", "nobody"])),
)
configs = objects(
    version=st.just(1),
    experts=st.lists(experts | values, max_size=3),
    policies=st.dictionaries(st.sampled_from(["default", "other"]), policies | values),
    default_policy=st.text(max_size=8),
    server=objects(
        host=st.text(max_size=8),
        port=numbers,
        api_keys=st.lists(st.text(max_size=8)),
        feedback=st.text(max_size=8),
        max_body_bytes=numbers,
    ),
)
documents = st.one_of(
    configs.map(lambda config: yaml.safe_dump(config, allow_unicode=True)),
    (configs | values).map(json.dumps),
    st.text(max_size=100),
    st.text("{}[]:-&*!|>'\"%@`#, \n\tab1", max_size=60),
)


def check_config(path):
    result = examine(path)
    assert (result.config is None) == bool(result.mistakes)
    if result.config is None:
        with pytest.raises(BadConfig) as error:
            load(path)
        assert "sk-secret-value" not in str(error.value)
        assert all(problem.problem and problem.fix for problem in result.mistakes)
        assert all(problem.text(path).encode() for problem in result.problems)


@given(documents)
def test_any_document_is_a_config_or_a_list_of_mistakes(folder, document):
    path = folder / "routewright.yaml"
    path.write_text(document, encoding="utf-8", errors="replace")
    check_config(path)


def test_half_of_a_surrogate_pair_is_a_mistake(folder, routewright):
    path = folder / "cut.yaml"
    path.write_text('version: 1\n"\\ud80c": 1\nexperts: [{name: "a\\ud80c"}]\n')
    code, told, _ = routewright("check", path)
    assert code == 2
    assert "half of a surrogate pair" in told


@given(st.binary(max_size=100))
def test_any_bytes_are_a_config_or_a_list_of_mistakes(folder, raw):
    path = folder / "bytes.yaml"
    path.write_bytes(raw)
    check_config(path)


# --- journals ------------------------------------------------------------------------------

names = st.text(string.ascii_lowercase, min_size=1, max_size=5).filter(lambda name: name != "self")
finite = st.floats(allow_nan=False)
encodable = st.text(st.characters(codec="utf-8"), max_size=20)
entries = st.dictionaries(names, st.none() | st.integers() | finite | encodable, max_size=4)


def written(path, events):
    path.unlink(missing_ok=True)
    with Journal(path) as journal:
        for event in events:
            journal.write(**event)
    return path.read_bytes()


@given(st.lists(entries, max_size=5), st.data())
def test_a_journal_that_is_cut_anywhere_loses_at_most_its_last_entry(folder, events, data):
    path = folder / "cut.jsonl"
    raw = written(path, events)
    end = data.draw(st.integers(0, len(raw)))
    whole = raw[:end].count(b"\n")
    path.write_bytes(raw[:end])
    assert read(path) == events[:whole]
    with Journal(path) as journal:
        assert journal.entries == events[:whole]
        journal.write(after=True)
    assert read(path) == [*events[:whole], {"after": True}]


@given(st.lists(entries, max_size=3), st.binary(max_size=40), st.data())
def test_a_journal_with_foreign_bytes_is_read_or_names_its_line(folder, events, foreign, data):
    path = folder / "foreign.jsonl"
    raw = written(path, events)
    place = data.draw(st.integers(0, len(raw)))
    path.write_bytes(raw[:place] + foreign + raw[place:])
    try:
        with Journal(path) as journal:
            assert all(isinstance(entry, dict) for entry in journal.entries)
    except BadInput as error:
        message = str(error)
    else:
        return
    assert "line " in message


@given(st.binary(max_size=100))
def test_any_bytes_are_a_journal_or_bad_input(folder, raw):
    path = folder / "bytes.jsonl"
    path.write_bytes(raw)
    with suppress(BadInput), Journal(path):
        pass
