"""Hostile or damaged tables, query sets and configs: one sentence says what is wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from routewright import config
from routewright.data import outcomes, queries
from routewright.errors import BadConfig, BadInput, BadTable
from tables import table

Make = Callable[[Path], object]
READERS = (outcomes.read, outcomes.table, queries.read, lambda path: queries.recorded([path]))


def text(content: str | bytes) -> Make:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(raw)


def cells(**columns: list) -> Make:
    """A Parquet table of two rows with these cells too."""
    base = {"id": ["p", "q"], "prompt": ["a", "b"], "score::a": [1.0, 0.0]}
    frame = pl.DataFrame({**base, **{name.replace("__", "::"): c for name, c in columns.items()}})
    return lambda path: frame.write_parquet(path)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def rows_of_nothing(path: Path) -> None:
    """A hundred million rows in a few kilobytes."""
    empty = pl.select(pl.repeat(None, 10**8, dtype=pl.Boolean).alias("score::a"))
    empty.write_parquet(path, statistics=False)


GOOD = '{"id": "q", "prompt": "p", "score::a": 1}\n'
TABLES: dict[str, tuple[str, Make]] = {
    "an empty Parquet file": (".parquet", text("")),
    "a Parquet file of zeros": (".parquet", text(b"\0" * 1000)),
    "JSON lines in a Parquet file": (".parquet", text(GOOD)),
    "rows of nothing": (".parquet", rows_of_nothing),
    "scores in lists": (".parquet", cells(score__a=[[1.0], [0.0]])),
    "scores in structs": (".parquet", cells(score__a=[{"x": 1.0}, {"x": 0.0}])),
    "a score above 1": (".parquet", cells(score__a=[1.5, 0.0])),
    "an infinite cost": (".parquet", cells(cost__a=[float("inf"), 0.0])),
    "a negative cost": (".parquet", cells(cost__a=[-1.0, 0.0])),
    "tags that are numbers": (".parquet", cells(tags=[5, 6])),
    "groups in lists": (".parquet", cells(stem_sha=[["x"], ["y"]])),
    "prompts in lists": (".parquet", cells(prompt=[["x"], ["y"]])),
    "a folder": (".parquet", lambda path: path.mkdir()),
    "a pipe": (".parquet", os.mkfifo),
    "a device": (".parquet", link("/dev/zero")),
    "a link to itself": (".parquet", lambda path: path.symlink_to(path)),
    "a pipe of lines": (".jsonl", os.mkfifo),
    "a device of lines": (".jsonl", link("/dev/zero")),
    "a cut last line": (".jsonl", text(GOOD + GOOD[:20])),
    "rubbish between lines": (".jsonl", text(GOOD + "\x00\x01garbage\n" + GOOD)),
    "a list in place of a row": (".jsonl", text("[1]\n")),
    "deep JSON": (".jsonl", text("[" * 10**5 + "\n")),
    "deep messages": (
        ".jsonl",
        text('{"id": "q", "messages": "' + "[" * 10**5 + '", "score::a": 1}\n'),
    ),
    "a tag that is a number": (".jsonl", text(GOOD[:-2] + ', "tags": 5}\n')),
    "a score of 10⁵ digits": (".jsonl", text(GOOD.replace("1}", "9" * 10**5 + "}"))),
    "a score of 10⁵ letters": (".jsonl", text(GOOD.replace("1}", f'"{"x" * 10**5}"' + "}"))),
    "half a character in a name": (
        ".jsonl",
        text('{"id": "q", "prompt": "p", "score::\\ud800": 1}\n'),
    ),
    "a class of 10⁵ letters": (".jsonl", text(GOOD[:-2] + f', "data_class": "{"x" * 10**5}"}}\n')),
    "UTF-16": (".jsonl", text(GOOD.encode("utf-16"))),
    "Latin-1": (".csv", text("id,prompt,score::a\n1,é,1\n".encode("latin-1"))),
    "nothing": (".csv", text("")),
    "no rows": (".csv", text("id,prompt,score::a\n")),
    "too many cells": (".csv", text("id,prompt,score::a\n1,p,1,2\n")),
    "a column twice": (".csv", text("id,prompt,score::a,score::a\n1,p,1,0\n")),
    "an open quote": (".csv", text('id,prompt,score::a\n1,"p,1\n')),
    "a huge cell": (".csv", text(f"id,prompt,score::a\n1,{'x' * (1 << 25)},1\n")),
    "bytes of every kind": (".csv", text(bytes(range(256)) * 100)),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_used_says_why(name, tmp_path: Path):
    suffix, make = TABLES[name]
    path = tmp_path / f"table{suffix}"
    make(path)
    with pytest.raises(BadTable) as refused:
        outcomes.read(path)
    assert_one_sentence(refused.value)
    for read in READERS:  # a query set needs no scores, so some of these are one
        try:
            read(path)
        except BadInput as error:
            assert_one_sentence(error)


def assert_one_sentence(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600, str(error)[:600]


def test_a_parquet_file_damaged_anywhere_is_read_or_refused_without_noise(tmp_path: Path, capfd):
    """Polars' threads panic on some damage, and would print a backtrace each."""
    path = tmp_path / "t.parquet"
    table(40).write_parquet(path)
    whole = path.read_bytes()
    refused = 0
    for trial in range(150):
        rng = random.Random(trial)
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(raw[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))])
        try:
            outcomes.read(path)
        except BadTable as error:
            refused += 1
            assert_one_sentence(error)
    assert refused > 50
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["tags that are numbers", "a pipe", "a cut last line"])
def test_a_command_ends_with_code_2_and_one_line(name, routewright, tmp_path: Path):
    suffix, make = TABLES[name]
    make(path := tmp_path / f"table{suffix}")
    code, _, error = routewright("fit", path, "--out", tmp_path / "router")
    assert code == 2
    assert error.count("\n") == 1
    assert error.startswith("Error: ")


# --- configs -------------------------------------------------------------------------------

CONFIG = """
version: 1
experts: [{name: a, base_url: "http://127.0.0.1:1/v1", input_per_mtok: 1}]
policies: {p: {strategy: fixed, options: {expert: a}}}
"""


def bomb(first: str, further: str) -> str:
    """Forty values, each of which holds the one before it twice."""
    lines = [f"b0: &b0 {first}"]
    lines += [f"b{n}: &b{n} {further.replace('@', f'*b{n - 1}')}" for n in range(1, 40)]
    return "\n".join(lines) + CONFIG


CONFIGS: dict[str, Make] = {
    "aliases in lists": text(bomb("[x]", "[@, @]")),
    "aliases in mappings": text(bomb("{x: y}", "{p: @, q: @}")),
    "aliases that are merged": text(bomb("{x: y}", "{<<: [@, @]}")),
    "an alias of itself": text("a: &a [*a, *a]" + CONFIG),
    "deep lists": text("a: " + "[" * 10**5),
    "many deep lists": text("".join(f"k{n}: {'[' * 300}{']' * 300}\n" for n in range(500))),
    "deep mappings": text("a: " + "{b: " * 10**5),
    "deep dashes": text("- " * 10**5),
    "a Python object": text("a: !!python/object/apply:os.system [touch /tmp/x]" + CONFIG),
    "no truth value": text("a: !!bool maybe" + CONFIG),
    "no number": text('a: !!int ""' + CONFIG),
    "no date": text("a: !!timestamp x" + CONFIG),
    "a long number": text(CONFIG.replace("name: a", "name: 0x" + "f" * 10**4)),
    "an expert twice": text(CONFIG.replace("name: a", "name: a, name: b")),
    "a long name": text(CONFIG.replace("name: a", f"name: {'a' * 10**5}")),
    "a long address": text(CONFIG.replace("http://127.0.0.1:1/v1", "x" * 10**5)),
    "many mistakes": text(CONFIG + "".join(f"k{n}: 1\n" for n in range(5000))),
    "Latin-1": text("# é".encode("latin-1") + CONFIG.encode()),
    "zeros": text(b"\0" * 100),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": link("/dev/zero"),
    "a terabyte": lambda path: os.truncate(path, 1 << 40) if path.write_text("") == 0 else None,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_be_used_says_why(name, tmp_path: Path):
    CONFIGS[name](path := tmp_path / "routewright.yaml")
    with pytest.raises(BadConfig) as refused:
        config.load(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert len(message) < 100_000
    assert max(map(len, message.split("\n"))) < 800


def test_a_password_in_an_address_is_masked(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(
        CONFIG.replace("http://127.0.0.1:1/v1", "ftp://me:secret@x/a@b?key=secret#secret")
    )
    with pytest.raises(BadConfig) as refused:
        config.load(path)
    assert "secret" not in str(refused.value)
