"""SmolLM2 as the generator of self-play: how many of its queries can be used, and what they add.

The start is a router fitted on a few graded questions. One arm adds what SmolLM2 writes, graded by
the majority of the experts; the other adds as many questions of the set, drawn at random, with
their references. Both are measured on the split `dev`, of which neither has seen anything.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from bench.real import _lab, expert
from routewright.data.outcomes import read as read_outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.interview import overlap, selfplay
from routewright.router.router import Router
from routewright.types import Query

POOL = ("greedy", "warm", "larger")
START, ASKED, ROUNDS = 60, 10, 2  # rows; queries of a round, of which five times as many are drawn


def main() -> None:
    if sentence := _lab.absent():
        return print(sentence)
    if not (expert.FOLDER / "answers.parquet").exists():
        expert.asked(expert.FOLDER, expert.ROWS, expert.VERIFIED)
    play(_lab.BUILD / "selfplay", expert.FOLDER / "answers.parquet", START, ASKED, ROUNDS)


def play(folder: Path, answers: Path, start: int, asked: int, rounds: int) -> None:
    expert.config(folder, more=expert.writer())
    shutil.copy(answers.parent / "questions.jsonl", folder / "questions.jsonl")
    frame = pl.read_parquet(answers)
    train = frame.filter(pl.col("split") == "train")
    train[:start].write_parquet(folder / "start.parquet")
    frame.filter(pl.col("split") == "dev").write_parquet(folder / "held-out.parquet")
    if not (folder / "router").exists():
        rows = read_outcomes(folder / "start.parquet", experts=list(POOL))
        fit(rows, strategy="single").save(folder / "router")
    words = ("--grader", "majority", "--held-out", "held-out.parquet", "--concurrency", "8")
    sizes = ("--rounds", str(rounds), "--queries", str(asked), "--candidates", "5")
    _lab.routewright(
        folder,
        *("selfplay", "routewright.yaml", "router", "--out", "play", "--generator", "writer"),
        *(*words, *sizes, "--strategy", "single", "--table", "start.parquet"),
        output=False,
    )
    show_queries(folder)
    show_arms(folder, train, start)


def show_queries(folder: Path) -> None:
    """What became of the generator's replies."""
    text = (folder / "play" / "journal.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.rstrip("\0").splitlines() if '"answered"' in line]
    replies = [one["answer"]["text"] for one in lines if one["answer"]["expert"] == "writer"]
    arrays = [selfplay.texts(reply) for reply in replies]
    written = [entry for array in arrays for entry in array if entry.strip()]
    known = [Query.of(prompt) for prompt in pl.read_parquet(folder / "start.parquet")["prompt"]]
    unique = overlap.distinct([*known, *map(Query.of, written)], cosine=overlap.COSINE)
    fresh = sum(place >= len(known) for place in unique)
    print(
        f"{len(replies)} asks of {selfplay.PER_ASK} queries each: {sum(map(bool, arrays))} replies"
        f" are JSON arrays, with {len(written)} texts, of which {fresh} are new"
    )
    for entry in written[:8]:
        print(f"  {entry[:100]!r}")


def show_arms(folder: Path, train: pl.DataFrame, start: int) -> None:
    """The start, self-play, and as many random rows, on the held-out rows."""
    rounds = [
        json.loads(line) for line in (folder / "play" / "rounds.jsonl").read_text().splitlines()
    ]
    added = sum(one["asked"] - one["ungraded"] for one in rounds)
    order = start + np.random.default_rng(0).permutation(len(train) - start)[:added]
    pl.concat([train[:start], train[order]]).write_parquet(folder / "random.parquet")
    random = fit(read_outcomes(folder / "random.parquet", experts=list(POOL)), strategy="single")
    dev = read_outcomes(folder / "held-out.parquet", experts=list(POOL), split="dev")
    arms = {
        f"start, {start} rows": Router.load(folder / "router"),
        f"self-play, kept of {added} more": Router.load(folder / "play" / "router"),
        f"{added} random ones more": random,
    }
    table = Table(title=f"{len(dev)} held out")
    for head in ("fitted on", "quality at half the cost", "AIQ"):
        table.add_column(head)
    for name, router in arms.items():
        figures = evaluate(router, dev).to_json()
        half = figures["at_cost_fraction"]["0.5"]["quality"]
        table.add_row(name, f"{half:.4f}", f"{figures['aiq']:.4f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
