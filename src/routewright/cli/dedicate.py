"""`routewright dedicate`: a model of one's own that answers or defers, from data to server."""

from __future__ import annotations

import json as json_module
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.dedicated import Recipe

app = typer.Typer(
    name="dedicate",
    help="Make a model of one's own that answers what it can and defers the rest.",
    no_args_is_help=True,
)

Table = Annotated[Path, typer.Argument(help="Outcome table (Parquet, JSONL or CSV).")]
Base = Annotated[str, typer.Option(help="Causal model: a Hugging Face name or a folder.")]
Out = Annotated[Path, typer.Option(help="Folder to write the model to.")]
Json = Annotated[bool, typer.Option(help="Print the figures as JSON.")]
Tune = Annotated[
    str, typer.Option(help="What is trained of the base: lora, full or frozen (only what defers).")
]
Epochs = Annotated[int, typer.Option(min=1, help="Times that every lesson is seen.")]
Rate = Annotated[
    float | None, typer.Option(help="Of the base; default: 2e-4 for lora, 2e-5 for full.")
]
Batch = Annotated[int, typer.Option(min=1, help="Lessons at once.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per step.")]
Length = Annotated[int, typer.Option(min=2, help="Tokens of a prompt, and of an answer.")]
Rank = Annotated[int, typer.Option(min=1, help="Of the lora adapters.")]
Precision = Annotated[str, typer.Option(help="Of the weights: float32 or bfloat16.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Compute activations twice to save memory.")
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same model.")]


@app.command()
def build(
    table: Table,
    expert: Annotated[str, typer.Option(help="The base, as the table calls it.")],
    out: Annotated[Path, typer.Option(help="Lessons to write (.jsonl).")],
    base: Annotated[
        str | None, typer.Option(help="Its folder: queries that it was trained on are left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows of the table.")] = "train",
    json: Json = False,
) -> None:
    """Make lessons in deferring from outcomes: where the base itself fails, on queries that it was
    not trained on. `interview --samples K` gives shares of K answers in place of single ones."""
    from routewright import dedicated
    from routewright.data import queries

    frame = _frame(table, split)
    found = dedicated.lessons(frame, expert, taught=dedicated.taught(base) if base else ())
    if not found:
        raise BadInput(f"'{table}' holds no query with a score of '{expert}' that it has not seen")
    queries.write(found, out)
    failing = sum(float(item.facts["failure"]) for item in found) / len(found)
    _tell(
        json,
        f"'{out}': {len(found)} lessons, '{expert}' fails {failing:.1%}",
        lessons=len(found),
        failing=failing,
        left_out=len(frame) - len(found),
    )


@app.command()
def train(
    lessons: Annotated[Path, typer.Argument(help="What `dedicate build` wrote.")],
    base: Base,
    out: Out,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate", help="A head on the base decides, not a tag; the base answers as before."
        ),
    ] = False,
    tag: Annotated[str, typer.Option(help="The token that defers.")] = "<DEFER>",
    tune: Tune = "lora",
    epochs: Epochs = 3,
    learning_rate: Rate = None,
    head_rate: Annotated[float, typer.Option(help="Of the tag's row, or of the gate.")] = 1e-3,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    max_tokens: Length = 1024,
    rank: Rank = 8,
    defer_weight: Annotated[
        float | None, typer.Option(help="Of a failure in the decision; 0 balances the two sides.")
    ] = 1.0,
    answer_weight: Annotated[
        float, typer.Option(min=0, help="Of the base's own answer, against the decision.")
    ] = 5.0,
    precision: Precision = "float32",
    checkpointing: Checkpointing = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a base to answer or to defer. Killed, the same command goes on where it was."""
    from routewright.data import queries
    from routewright.dedicated import Recipe

    recipe = Recipe(
        kind="gate" if gate else "tag",
        tag=tag,
        tune=tune,
        epochs=epochs,
        learning_rate=learning_rate,
        head_rate=head_rate,
        batch=batch,
        accumulate=accumulate,
        max_tokens=max_tokens,
        rank=rank,
        defer_weight=defer_weight or None,
        answer_weight=answer_weight,
        precision=precision,
        checkpointing=checkpointing,
        seed=seed,
    )
    _train(queries.read(lessons), base, out, recipe, json)


@app.command()
def grow(
    table: Table,
    teacher: Annotated[str, typer.Option(help="The fallback whose right answers are learnt.")],
    base: Base,
    out: Out,
    pupil: Annotated[
        str | None,
        typer.Option(help="The base, as the table calls it: what it says right it keeps saying."),
    ] = None,
    at_least: Annotated[float, typer.Option(help="Score of an answer worth learning.")] = 1.0,
    split: Annotated[str, typer.Option(help="Rows of the table.")] = "train",
    tune: Tune = "lora",
    epochs: Epochs = 3,
    learning_rate: Rate = None,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    max_tokens: Length = 1024,
    rank: Rank = 8,
    precision: Precision = "float32",
    checkpointing: Checkpointing = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train the base on what the fallback answered: the next base, which needs it less.

    Its folder notes these queries, so that `build` and `calibrate` do not take them for held out.
    """
    from routewright import dedicated

    recipe = dedicated.Recipe(
        tune=tune,
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        accumulate=accumulate,
        max_tokens=max_tokens,
        rank=rank,
        precision=precision,
        checkpointing=checkpointing,
        seed=seed,
    )
    found = dedicated.answers(_frame(table, split), teacher, pupil=pupil, at_least=at_least)
    _train(found, base, out, recipe, json)


@app.command()
def calibrate(
    folder: Annotated[Path, typer.Argument(help="What `dedicate train` wrote.")],
    table: Table,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="ρ: the share of queries to defer.")
    ] = None,
    quality: Annotated[
        float | None, typer.Option(help="Instead: the mean score to reach with the smallest ρ.")
    ] = None,
    expert: Annotated[
        str | None, typer.Option(help="The model, as the table calls it, for the quality.")
    ] = None,
    then: Annotated[str | None, typer.Option(help="The fallback, as the table calls it.")] = None,
    split: Annotated[str, typer.Option(help="Rows of the table: not those of training.")] = "dev",
    json: Json = False,
) -> None:
    """Choose from what doubt on the model defers: a quantile of its doubts on held-out queries."""
    from routewright import dedicated
    from routewright.data import outcomes
    from routewright.dedicated.recipe import WITHIN
    from routewright.metrics import deferred

    if (share is None) == (quality is None):
        raise BadInput("give exactly one of --share and --quality")
    if (expert is None) != (then is None) or (quality is not None and expert is None):
        raise BadInput("name both --expert and --then, by which quality is measured")
    dedicated.read_card(folder)
    known = dedicated.held_out(outcomes.read(table, split=split), folder)
    with _bar(f"'{folder}' reads {len(known)} queries"):
        doubts = dedicated.load(str(folder)).doubts([query.messages for query in known.queries])
    found: dict[str, Any] = {}
    if expert is not None and then is not None:
        curve = deferred(doubts, *_scores(known, (expert, then)))
        share = _share(curve, quality) if share is None else share
        found = {"quality": float(curve[round(share * len(doubts))]), "then": then}
    assert share is not None, "one of the two was given"
    dedicated.calibrate(folder, doubts, share, **found)
    told = {"share": share, "ownership": 1 - share, "rows": len(doubts), **found}
    words = f"'{folder}' defers {share:.1%}, owns {1 - share:.1%} of {len(doubts)} queries"
    words += f"; quality {found['quality']:.4f}" if found else ""
    card = dedicated.read_card(folder)
    if card["kind"] == "tag":
        bias = {str(card["tag_id"]): round(card["calibration"]["offset"], 4)}
        told["logit_bias"] = bias
        words += f"\nAt a server such as vLLM, in the expert's `options`: logit_bias: {bias}"
        if card["calibration"]["offset"] > WITHIN:
            words += (
                "\nThere, so large a bias may put the tag into answers, too: serve with provider"
                " local, or defer less"
            )
    _tell(json, words, **told)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="What `dedicate train` wrote.")],
    config: Annotated[
        Path | None, typer.Argument(help="Where the fallback is defined: routewright.yaml.")
    ] = None,
    then: Annotated[
        list[str] | None, typer.Option(help="An expert of the config to defer to; in order.")
    ] = None,
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "dedicated",
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Serve the model alone, by the command `vllm serve`.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what a config needs to serve it so.")
    ] = False,
    best_effort: Annotated[
        bool, typer.Option(help="If no fallback can be asked, answer all the same.")
    ] = True,
    host: Annotated[str | None, typer.Option(help="Address; default: the config's.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; likewise.")] = None,
) -> None:
    """Serve the model: in this process behind the gateway, or by vLLM.

    With --dry-run it prints entries for `routewright.yaml`; there, the gateway starts vLLM itself.
    """
    from routewright import dedicated

    card = dedicated.read_card(folder)
    options = {"expert": name, "then": then, "tags": [card["tag"]], "best_effort": best_effort}
    policies = {name: {"strategy": "dedicated", "options": options}} if then else {}
    if vllm:
        place = f"{host or '127.0.0.1'}:{port or 8000}"
        entry = _at_vllm(folder, card, name, place)
    else:
        entry = {"name": name, "provider": "local", "model": str(folder.absolute()), **OWN}
    if dry_run:
        return _print_config(entry, policies)
    if vllm:
        _become_vllm(entry, policies)
    if config is None or not then:
        raise BadInput("name a config and, with --then, the expert of it to defer to")
    _behind_the_gateway(config, entry, policies, host, port)


OWN: dict[str, Any] = {"data_classes": ["public", "internal", "restricted"]}  # it runs here


def _at_vllm(folder: Path, card: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    """A config entry of an expert that vLLM serves; the tag's bias is what ρ comes to there."""
    if card["kind"] == "gate":
        raise BadInput("vLLM knows no gates: serve this model without --vllm, or train a tag")
    bias = {str(card["tag_id"]): round(card.get("calibration", {}).get("offset", 0.0), 4)}
    words = ["vllm", "serve", str(folder.absolute()), "--served-model-name", name]
    words += ["--host", place.partition(":")[0], "--port", "{port}"]
    return {
        "name": name,
        "base_url": f"http://{place}/v1",
        "options": {"logit_bias": bias},
        **OWN,
        "launch": {"command": shlex.join(words)},
    }


def _print_config(entry: dict[str, Any], policies: dict[str, Any]) -> None:
    import yaml

    whole = {"experts": [entry], **({"policies": policies} if policies else {})}
    typer.echo(
        yaml.safe_dump(whole, sort_keys=False, default_flow_style=None, width=1000), nl=False
    )


def _become_vllm(entry: dict[str, Any], policies: dict[str, Any]) -> None:
    """This process becomes vLLM's; what the config needs is said before."""
    launched = entry.pop("launch")["command"]
    port = entry["base_url"].removesuffix("/v1").rpartition(":")[2]
    command = shutil.which("vllm")
    if command is None:
        raise BadInput(
            "no command 'vllm': pip install vllm, add --dry-run to see what it would run, or serve"
            " without --vllm"
        )
    _print_config(entry, policies)
    sys.stdout.flush()
    os.execv(command, shlex.split(launched.replace("{port}", port)))


def _behind_the_gateway(
    config: Path,
    entry: dict[str, Any],
    policies: dict[str, Any],
    host: str | None,
    port: int | None,
) -> None:
    from routewright.cli.serve import welcome
    from routewright.config import ExpertConfig, PolicyConfig, load
    from routewright.gateway.server import run

    checked, name = load(config), entry["name"]
    known = [expert.name for expert in checked.experts]
    (policy,) = policies.values()
    if unknown := [expert for expert in policy["options"]["then"] if expert not in known]:
        raise BadInput(f"no expert '{unknown[0]}' in the config: it has {', '.join(known)}")
    if name in known:
        raise BadInput(f"the config has an expert '{name}' already: name the model with --name")
    whole = checked.model_copy(
        update={
            "experts": [*checked.experts, ExpertConfig(**entry)],
            "policies": {name: PolicyConfig(**policy), **checked.policies},
            "default_policy": name,
        }
    )
    host = checked.server.host if host is None else host
    port = checked.server.port if port is None else port
    run(whole, host, port, lambda url: typer.echo(welcome(whole, url)))


# --- what they share -----------------------------------------------------------------------


def _frame(table: Path, split: str) -> Any:
    """The rows of one split; a table without the column is used whole."""
    import polars as pl

    from routewright.data import outcomes

    frame = outcomes.table(table)
    if split == outcomes.ALL or "split" not in frame.columns:
        return frame
    kept = frame.filter(pl.col("split") == split)
    if not len(kept):
        there = ", ".join(sorted(str(name) for name in frame["split"].unique().to_list()))
        raise BadInput(f"'{table}': no row has split '{split}'; there are {there} (or all)")
    return kept


def _train(found: Sequence[Any], base: str, out: Path, recipe: Recipe, json: bool) -> None:
    from routewright import dedicated

    with _bar("training") as show:
        dedicated.train(found, base, out, recipe, progress=show)
    _tell(json, f"'{out}': trained on {len(found)} lessons", lessons=len(found), folder=str(out))


@contextmanager
def _bar(doing: str) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda words, share: bar.update(task, description=words, completed=share, total=1.0)


def _scores(known: Outcomes, experts: Sequence[str]) -> Any:
    import numpy as np

    scores = known.pool(experts).score.T
    if np.isnan(scores).any():
        missing = experts[int(np.isnan(scores).any(axis=1).argmax())]
        raise BadInput(f"'{missing}' has no score in some of the rows: ask and grade it first")
    return scores


def _share(curve: Any, quality: float | None) -> float:
    """The smallest ρ that reaches a quality."""
    import numpy as np

    reached = np.flatnonzero(curve >= quality)
    if not len(reached):
        raise BadInput(f"quality {quality:g} is out of reach: the best is {curve.max():.4f}")
    return float(reached[0] / (len(curve) - 1))


def _tell(json: bool, words: str, **facts: Any) -> None:
    typer.echo(json_module.dumps(facts) if json else words)
