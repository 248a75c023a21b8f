"""SmolLM2 as experts: launched by the config, interviewed, verified by itself, and served."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from bench.real import _lab, questions
from routewright import metrics, prompts
from routewright.answers import equivalence
from routewright.data.outcomes import Outcomes
from routewright.data.outcomes import read as read_outcomes
from routewright.data.queries import Item
from routewright.fitting import automix
from routewright.grading.graders.auto import Auto
from routewright.metrics import auc
from routewright.types import Array, Query

LIVE = 40  # questions asked through the gateway
REPLICATES = 1000
RATIOS = (10, 50, 200)  # cost of an answer of the larger model, in answers of the small one
FOLDER = _lab.BUILD / "expert"
ROWS = 480
VERIFIED = {1: 96, 8: 64}  # verdicts ▶ questions whose answers are verified so often
SMALL = """\
  - name: {name}
    base_url: http://127.0.0.1:{port}/v1
    model: smollm2
    input_per_mtok: 0.02
    output_per_mtok: 0.04
    max_concurrency: 8
    options: {options}
    launch:
      command: "{python} -m bench.real.server --port {{port}}{more}"
      env: {{PYTHONPATH: "{root}:{root}/src"}}
"""
LARGER = """\
  - name: larger  # always right, at fifty times the price of a token
    base_url: http://127.0.0.1:{port}/v1
    input_per_mtok: 1.0
    output_per_mtok: 2.0
    launch:
      command: "{python} -m bench.real.larger --port {{port}} questions.jsonl"
      env: {{PYTHONPATH: "{root}:{root}/src"}}
"""
WRITER = """\
  - name: writer  # the same weights; it writes queries for self-play
    base_url: http://127.0.0.1:{port}/v1
    model: smollm2
    input_per_mtok: 0.02
    output_per_mtok: 0.04
    max_concurrency: 4
    options: {{max_tokens: 384}}
    launch:
      command: "{python} -m bench.real.server --port {{port}} --context 2048 --requests 4"
      env: {{PYTHONPATH: "{root}:{root}/src"}}
"""
LINE = 'max_tokens: 16, stop: ["\\n"]'
VARIANTS = {  # three honest ones of the same weights
    "greedy": (f"{{temperature: 0, {LINE}}}", ""),
    "longer": ("{temperature: 0, max_tokens: 48}", ""),  # and as many lines as it likes
    "warm": (f"{{temperature: 1, seed: 1, {LINE}}}", " --context 256"),  # a quarter of it
}
YES_OR_NO = (  # its verdicts are readable: the most readable of four that were tried by hand
    "Question: {question}\\nProposed answer: {answer}\\n\\n"
    "Is the proposed answer correct? Reply with yes or no."
)
PROMPTS = {"routewright.yaml": "", "yes-or-no.yaml": f'    verify_prompt: "{YES_OR_NO}"\n'}


def config(folder: Path, name: str = "routewright.yaml", more: str = "") -> None:
    """Writes a config; `more` is added at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"python": sys.executable, "root": _lab.ROOT}
    *ports, last = _lab.free_ports(len(VARIANTS) + 1)
    experts = [
        SMALL.format(name=one, port=port, options=options, more=flags, **facts)
        + PROMPTS.get(name, "")
        for port, (one, (options, flags)) in zip(ports, VARIANTS.items(), strict=True)
    ]
    larger = LARGER.format(port=last, **facts)
    text = "version: 1\nexperts:\n" + "".join(experts) + larger + more
    (folder / name).write_text(text, encoding="utf-8")


def writer() -> str:
    """The config entry of an expert that writes longer texts."""
    return WRITER.format(port=_lab.free_ports(1)[0], python=sys.executable, root=_lab.ROOT)


def asked(
    folder: Path, rows: int, verified: Mapping[int, int], configs: Iterable[str] = tuple(PROMPTS)
) -> None:
    """Writes `answers.parquet` of all rows, and a table for each prompt and number of verdicts,
    of as many rows as `verified` says. Nothing in a journal is asked again."""
    lines = [json.dumps(row) for row in questions.questions(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("questions.jsonl", "--logprobs", "--concurrency", "8")
    config(folder)
    _interview(folder, "routewright.yaml", *words, out="answers")
    for name in configs:
        config(folder, name)
        for k, n in verified.items():
            out = f"{name.removesuffix('.yaml')}-{k}"
            journal = folder / f"{out}.journal.jsonl"  # the answers, and this run's verdicts
            if not journal.exists():
                shutil.copy(folder / "answers.journal.jsonl", journal)
            more = ("--only", "greedy", "--limit", str(n), "--verify", str(k))
            _interview(folder, name, *words, *more, out=out)


def _interview(folder: Path, config: str, *words: str, out: str) -> None:
    _lab.routewright(folder, "interview", config, *words, "--out", f"{out}.parquet", output=False)


def verifications(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """The prompt, the number of verdicts and the table of every run with verifications."""
    for name, words in WORDED.items():
        for path in sorted(folder.glob(f"{name.removesuffix('.yaml')}-*.parquet")):
            yield words, int(path.stem.rpartition("-")[2]), path


# --- what its own signals say about its answers ------------------------------------------------


def signals(folder: Path) -> dict[str, tuple[Array, Array]]:
    """Confidences (n,) in greedy's answers by every signal, with the scores (n,) of the answers.

    A verification without a readable verdict counts as confidence 0, as it does in service.
    """
    answers = pl.read_parquet(folder / "answers.parquet")
    known = answers["score::greedy"].to_numpy()
    logprob = answers["logprob::greedy"].fill_null(-9.0).to_numpy()
    texts = [answers[f"answer::{name}"].to_list() for name in ("greedy", "longer", "warm")]
    found = {
        "log-probability": (logprob, known),
        "agreement with longer and warm": (_agreement(np.array(texts, object).T), known),
        "domain's mean (other half)": (_by_domain(answers), known),
    }
    for words, k, path in verifications(folder):
        table = pl.read_parquet(path)
        values = table["verify::greedy"] if "verify::greedy" in table.columns else None
        share = np.zeros(len(table)) if values is None else values.fill_null(0.0).to_numpy()
        found[f"{words}, k = {k}"] = (share, table["score::greedy"].to_numpy())
    return found


WORDED = {"routewright.yaml": "few-shot self-verification", "yes-or-no.yaml": "yes-or-no prompt"}


def _agreement(texts: Any) -> Array:
    """The share of the other columns (n, e − 1) that say the same as the first."""
    labels = equivalence.labels("auto", texts)
    readable = labels[:, :1] >= 0
    return ((labels[:, 1:] == labels[:, :1]) & readable).mean(axis=1)


def _by_domain(answers: pl.DataFrame) -> Array:
    """The mean score of a row's domain in the split that the row is not in."""
    means = answers.group_by("split", "domain").agg(pl.col("score::greedy").mean())
    table = {(split, domain): mean for split, domain, mean in means.iter_rows()}
    other = {"train": "dev", "dev": "train"}
    pairs = zip(answers["split"], answers["domain"], strict=True)
    return np.array([table.get((other[split], domain), 0.0) for split, domain in pairs])


def show_answers(folder: Path) -> None:
    """Mean scores by domain, and what the answers cost."""
    answers = pl.read_parquet(folder / "answers.parquet")
    table = Table(title=f"{len(answers)} questions, graded by auto")
    domains = answers["domain"].unique(maintain_order=True).to_list()
    for head in ("", "all", *domains, "tokens", "US$/1k"):
        table.add_column(head, no_wrap=True)
    for name in VARIANTS:
        by_domain = [
            answers.filter(pl.col("domain") == domain)[f"score::{name}"].mean()
            for domain in domains
        ]
        figures = [answers[f"score::{name}"].mean(), *by_domain]
        tokens, cost = (answers[f"{what}::{name}"].mean() for what in ("out_tokens", "cost"))
        cells = [f"{x:.2f}" for x in figures]
        table.add_row(name, *cells, f"{tokens:.1f}", f"{1000 * cost:.4f}")
    Console(width=130).print(table)


def show_signals(folder: Path) -> None:
    table = Table(title="AUC for greedy's answer being right (95 %, bootstrap over questions)")
    for head in ("signal", "rows", "AUC", "readable verdicts"):
        table.add_column(head)
    shares = {
        f"{words}, k = {k}": verdict_facts(path)["readable"]
        for words, k, path in verifications(folder)
    }
    for name, (confidence, score) in signals(folder).items():
        weights = np.random.default_rng(0).integers(0, len(score), (REPLICATES, len(score)))
        drawn = np.array([auc(confidence[w], score[w]) for w in weights])
        low, high = metrics.interval(drawn[np.isfinite(drawn)])
        share = f"{100 * shares[name]:.0f} %" if name in shares else ""
        figure = f"{auc(confidence, score):.3f} ({low:.3f} … {high:.3f})"
        table.add_row(name, str(len(score)), figure, share)
    Console(width=110).print(table)


def verdict_facts(table: Path) -> dict[str, float]:
    """The share of readable verdicts, and mean tokens of a verification, from its journal."""
    text = table.with_suffix(".journal.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.rstrip("\0").splitlines() if '"answered"' in line]
    checks = [line["answer"] for line in lines if line["answer"]["kind"] == "verify"]
    return {
        "readable": float(np.mean([prompts.verdict(one["text"]) is not None for one in checks])),
        "in_tokens": float(np.mean([one["input_tokens"] for one in checks])),
        "out_tokens": float(np.mean([one["output_tokens"] for one in checks])),
    }


# --- what they are worth: ΔIBC ------------------------------------------------------------------


def show_lifts(folder: Path) -> None:
    """Cross-validated ΔIBC of greedy before `larger`, with the verifications at their cost."""
    answers = pl.read_parquet(folder / "answers.parquet")
    small = float(answers["cost::greedy"].mean())  # type: ignore[arg-type]
    table = Table(title="ΔIBC in percent (95 %), cross-validated, by the price of a larger answer")
    heads = (*(f"best threshold, × {r}" for r in RATIOS), f"always verified, × {RATIOS[1]}")
    for head in ("verifier", "costs, in answers", "rows", *heads):
        table.add_column(head)
    for name, outcomes, cascade in _cascades(folder):
        cells = [f"{_price(outcomes, cascade) / small:.1f}", str(len(outcomes))]
        rules = [("threshold", ratio) for ratio in RATIOS] + [("self_consistency", RATIOS[1])]
        for rule, ratio in rules:
            prices = {"greedy": small, "larger": ratio * small}
            router = automix.fit(outcomes, cascade, only=rule, prices=prices)
            cells.append(_lift(automix.Comparison(**router.card["automix"]["compared"][0])))
        table.add_row(name, *cells)
    Console(width=140).print(table)


def _lift(found: automix.Comparison) -> str:
    if np.isnan(found.lift):
        return "never pays"  # the best threshold asks one of the two models at once
    low, high = found.lift_ci
    return f"{found.lift:+.0f} ({low:+.0f} … {high:+.0f})"


def _cascades(folder: Path) -> Iterator[tuple[str, Outcomes, automix.Cascade]]:
    pair = ("greedy", "larger")
    answers = pl.read_parquet(folder / "answers.parquet")
    larger = answers.select("id", "^.*::larger$")
    for words, k, path in verifications(folder):
        frame = pl.read_parquet(path).select(pl.exclude("^.*::larger$")).join(larger, on="id")
        yield f"{words}, k = {k}", _read(frame, pair), automix.Cascade(pair)
        if k > 1:
            once = _in_one_request(frame, k, verdict_facts(path))
            yield f"{words}, k = {k} in one request", _read(once, pair), automix.Cascade(pair)
    yield "log-probability", _read(answers, pair), automix.Cascade(pair, verifier="logprob")
    agree = ("longer", "warm")
    yield "agreement", _read(answers, (*pair, *agree)), automix.Cascade(pair, agree)


def _in_one_request(frame: pl.DataFrame, k: int, facts: Mapping[str, float]) -> pl.DataFrame:
    """With `n: k`, as the gateway asks, the prompt is paid for once."""
    asked, said = 0.02 * facts["in_tokens"], 0.04 * facts["out_tokens"]
    share = (asked + k * said) / (k * (asked + said))
    return frame.with_columns(pl.col("verify_cost::greedy") * share)


def _read(frame: pl.DataFrame, experts: Sequence[str]) -> Outcomes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "T.parquet"
        frame.with_columns(split=pl.lit("train")).write_parquet(path)
        return read_outcomes(path, experts=list(experts))


def _price(outcomes: Outcomes, cascade: automix.Cascade) -> float:
    """US$ of verifying one answer."""
    trials, _, _ = automix.observe(outcomes, cascade)
    return float(trials.verifying.mean())


# --- served ---------------------------------------------------------------------------------------

POLICIES = """\
policies:
  fitted: {strategy: auto, router: router, max_cost_fraction: 0.5}
  verified: {strategy: automix, options: {ladder: [greedy, larger], samples: 8}}
  logprob: {strategy: single, router: automix, max_cost_fraction: 0.5}
default_policy: fitted
server: {store: none}
"""


def live(folder: Path, n: int = LIVE) -> dict[str, dict[str, float]]:
    """A router fitted on `train`, and AutoMix by verdicts and by log-probabilities, asked `n`
    questions of `dev` through a gateway."""
    fitted = ("--experts", "greedy,warm,larger", "--strategy", "auto")
    if not (folder / "router").exists():
        _lab.routewright(folder, "fit", "answers.parquet", "--out", "router", *fitted)
    if not (folder / "automix").exists():
        options = ("ladder=greedy,larger", "verifier=logprob")
        words = [word for option in options for word in ("--option", option)]
        automixed = ("answers.parquet", "--out", "automix", "--strategy", "automix", *words)
        print(_lab.routewright(folder, "fit", *automixed))
    for router in ("router", "automix"):
        print(_lab.routewright(folder, "evaluate", router, "answers.parquet"))
    config(folder, "serve.yaml", more=POLICIES)
    rows = pl.read_parquet(folder / "answers.parquet").filter(pl.col("split") == "dev")[:n]
    table = Table(title=f"{len(rows)} questions of dev through the gateway")
    for head in ("policy", "right", "answered by greedy", "US$/1k", "seconds, median"):
        table.add_column(head)
    found = {}
    with _lab.gateway(folder, "serve.yaml") as url, httpx.Client(timeout=600) as client:
        for policy in ("fitted", "verified", "logprob"):
            replies = [_asked(client, url, policy, prompt) for prompt in rows["prompt"]]
            items = [Item(Query.of(p), r) for p, r in rows.select("prompt", "reference").rows()]
            right = [
                Auto().grade(i, one["text"]).score for i, one in zip(items, replies, strict=True)
            ]
            found[policy] = {
                "right": float(np.mean(right)),
                "small": float(np.mean([one["expert"] == "greedy" for one in replies])),
                "cost": 1000 * float(np.mean([one["cost"] for one in replies])),
                "seconds": float(np.median([one["seconds"] for one in replies])),
            }
            figures = found[policy]
            shares = (f"{figures[key]:.2f}" for key in ("right", "small"))
            table.add_row(policy, *shares, f"{figures['cost']:.4f}", f"{figures['seconds']:.1f}")
            print(policy, "paths:", sorted({one["path"] for one in replies})[:6])
    Console(width=110).print(table)
    return found


def _asked(client: httpx.Client, url: str, policy: str, prompt: str) -> dict[str, Any]:
    body = {"model": policy, "messages": [{"role": "user", "content": prompt}]}
    began = time.perf_counter()
    reply = client.post(f"{url}/v1/chat/completions", json=body)
    reply.raise_for_status()
    head = reply.headers
    return {
        "text": reply.json()["choices"][0]["message"]["content"],
        "expert": head["x-routewright-expert"],
        "path": head["x-routewright-path"],
        "cost": float(head["x-routewright-cost"]),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    if sentence := _lab.absent():
        return print(sentence)
    asked(FOLDER, ROWS, VERIFIED)
    show_answers(FOLDER)
    show_signals(FOLDER)
    show_lifts(FOLDER)
    live(FOLDER)


if __name__ == "__main__":
    main()
