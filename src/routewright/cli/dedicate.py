"""`routewright dedicate`: a model of your own that answers or defers, from data to server."""

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

from routewright.cli.fit import DropDuplicates
from routewright.data.endings import READABLE
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.dedicated import Recipe

app = typer.Typer(
    name="dedicate",
    help="Make a model of your own that answers what it can and defers the rest.",
    no_args_is_help=True,
)

Table = Annotated[Path, typer.Argument(help=f"Outcome table ({READABLE}).")]
Base = Annotated[str, typer.Option(help="Causal model to train: a Hugging Face name or a folder.")]
Out = Annotated[Path, typer.Option(help="Folder to write the model to.")]
Json = Annotated[bool, typer.Option(help="Print the figures as JSON.")]
Split = Annotated[
    str, typer.Option(help="Use the rows of this split of the table (all: every row).")
]
Tune = Annotated[
    str,
    typer.Option(
        help="Part of the base to train: lora (adapters), full, or frozen (only the tag or gate)."
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Number of passes over the lessons.")]
Rate = Annotated[
    float | None,
    typer.Option(help="Learning rate of the base (default: 2e-4 for lora, 2e-5 for full)."),
]
Batch = Annotated[int, typer.Option(min=1, help="Lessons per batch.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per optimiser step.")]
Length = Annotated[int, typer.Option(min=2, help="Maximum tokens of a prompt, and of an answer.")]
Rank = Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapters.")]
Precision = Annotated[str, typer.Option(help="Number format of the weights: float32 or bfloat16.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Save memory by computing activations twice.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")]


@app.command()
def build(
    table: Table,
    expert: Annotated[str, typer.Option(help="Name of the base in the table.")],
    out: Annotated[Path, typer.Option(help="File to write the lessons to (.jsonl).")],
    base: Annotated[
        str | None,
        typer.Option(help="Folder of the base; queries that it was trained on are left out."),
    ] = None,
    split: Split = "train",
    drop_duplicates: DropDuplicates = False,
    json: Json = False,
) -> None:
    """Make lessons from an outcome table: they show on which queries the base fails.

    The queries must be ones that the base was not trained on. With `interview --samples K`, the
    label of a query is the share of K answers that were wrong, instead of a single answer.
    """
    from routewright import dedicated
    from routewright.data import queries

    frame = _frame(table, split, drop_duplicates)
    exclude = dedicated.training_queries(base) if base else ()
    items = dedicated.lessons(frame, expert, exclude=exclude)
    if not items:
        raise BadInput(
            f"'{table}' holds no query with a score of '{expert}' that it was not trained on:"
            " interview it on other queries"
        )
    queries.write(items, out)
    failing = sum(float(item.facts["failure"]) for item in items) / len(items)
    _report(
        json,
        f"'{out}': {len(items)} lessons, '{expert}' fails {100 * failing:.1f} % of them",
        lessons=len(items),
        failing=failing,
        left_out=len(frame) - len(items),
    )


@app.command()
def train(
    lessons: Annotated[Path, typer.Argument(help="File that `dedicate build` wrote.")],
    base: Base,
    out: Out,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Train a gate instead of a tag: a head on the base decides, and the base's answers"
            " do not change.",
        ),
    ] = False,
    tag: Annotated[str, typer.Option(help="Text of the token that defers.")] = "<DEFER>",
    tune: Tune = "lora",
    epochs: Epochs = 3,
    learning_rate: Rate = None,
    head_rate: Annotated[
        float, typer.Option(help="Learning rate of the tag's row, or of the gate.")
    ] = 1e-3,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    max_tokens: Length = 1024,
    rank: Rank = 8,
    defer_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of a failure in the decision; 0 gives failures and successes the same"
            " total weight."
        ),
    ] = 1.0,
    answer_weight: Annotated[
        float,
        typer.Option(min=0, help="Weight of the base's own answer, relative to the decision."),
    ] = 5.0,
    precision: Precision = "float32",
    checkpointing: Checkpointing = False,
    seed: Seed = 0,
    drop_duplicates: DropDuplicates = False,
    json: Json = False,
) -> None:
    """Train a base to answer or to defer. If the command is killed, run it again to continue."""
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
    _train(queries.read(lessons, drop_duplicates=drop_duplicates), base, out, recipe, json)


@app.command()
def grow(
    table: Table,
    teacher: Annotated[str, typer.Option(help="Expert of the table whose right answers to learn.")],
    base: Base,
    out: Out,
    pupil: Annotated[
        str | None,
        typer.Option(help="Name of the base in the table; it keeps its own right answers."),
    ] = None,
    at_least: Annotated[
        float, typer.Option(help="Minimum score of an answer to learn (0 to 1).")
    ] = 1.0,
    split: Split = "train",
    drop_duplicates: DropDuplicates = False,
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
    """Train the base on the fallback's answers, to get a next base that needs the fallback less.

    The new folder records these queries, so that `build` and `calibrate` leave them out.
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
    items = dedicated.answers(
        _frame(table, split, drop_duplicates), teacher, pupil=pupil, at_least=at_least
    )
    _train(items, base, out, recipe, json)


@app.command()
def calibrate(
    folder: Annotated[Path, typer.Argument(help="Folder that `dedicate train` wrote.")],
    table: Table,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share ρ of queries to defer, from 0 to 1.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="Instead of --share: the mean score to reach with the smallest ρ."),
    ] = None,
    expert: Annotated[
        str | None, typer.Option(help="Name in the table of the model whose scores to use.")
    ] = None,
    then: Annotated[str | None, typer.Option(help="Name of the fallback in the table.")] = None,
    split: Split = "dev",
    drop_duplicates: DropDuplicates = False,
    json: Json = False,
) -> None:
    """Set the doubt above which the model defers, as a quantile of its doubts on held-out queries.

    Use rows that the model was not trained on; those that it was trained on are left out.
    """
    from routewright import dedicated
    from routewright.data import outcomes
    from routewright.dedicated.recipe import WITHIN
    from routewright.metrics import deferred

    if (share is None) == (quality is None):
        raise BadInput("give exactly one of --share and --quality")
    if (expert is None) != (then is None) or (quality is not None and expert is None):
        raise BadInput("give both --expert and --then: their scores measure the quality")
    dedicated.read_card(folder)
    everyone = outcomes.read(table, split=split, drop_duplicates=drop_duplicates)
    rows = dedicated.held_out(everyone, folder)
    with _bar(f"'{folder}' reads {len(rows)} queries"):
        doubts = dedicated.load(str(folder)).doubts([query.messages for query in rows.queries])
    mixture: dict[str, Any] = {}
    if expert is not None and then is not None:
        curve = deferred(doubts, *_scores(rows, (expert, then)))
        share = _share(curve, quality) if share is None else share
        mixture = {"quality": float(curve[round(share * len(doubts))]), "then": then}
    assert share is not None, "either --share or --quality is given"
    dedicated.calibrate(folder, doubts, share, **mixture)
    facts = {"share": share, "ownership": 1 - share, "rows": len(doubts), **mixture}
    summary = f"'{folder}' defers {100 * share:.1f} %, owns {100 * (1 - share):.1f} %"
    summary += f" of {len(doubts)} queries"
    summary += f"; quality {100 * mixture['quality']:.2f} %" if mixture else ""
    card = dedicated.read_card(folder)
    if card["kind"] == "tag":
        bias = {str(card["tag_id"]): round(card["calibration"]["offset"], 4)}
        facts["logit_bias"] = bias
        summary += f"\nFor a server such as vLLM, in the expert's `options`: logit_bias: {bias}"
        if card["calibration"]["offset"] > WITHIN:
            summary += (
                "\nSo large a bias may put the tag inside answers there: serve with provider"
                " local, or defer less"
            )
    _report(json, summary, **facts)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder that `dedicate train` wrote.")],
    config: Annotated[
        Path | None, typer.Argument(help="Config that defines the fallback (routewright.yaml).")
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="Expert of the config to defer to; repeat it for further fallbacks."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model for clients.")] = "dedicated",
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Serve only the model, with the command `vllm serve`.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the entries that a config needs for it.")
    ] = False,
    best_effort: Annotated[
        bool, typer.Option(help="If no fallback can be asked, let the model answer anyway.")
    ] = True,
    host: Annotated[
        str | None, typer.Option(help="Address (default: the config's; 127.0.0.1 with --vllm).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port (default: the config's; 8000 with --vllm)."),
    ] = None,
) -> None:
    """Serve the model, either in this process behind the gateway or with vLLM.

    With --dry-run, print the entries for `routewright.yaml` instead. With them, the gateway starts
    vLLM itself.
    """
    from routewright import dedicated

    card = dedicated.read_card(folder)
    options = {"expert": name, "then": then, "tags": [card["tag"]], "best_effort": best_effort}
    policies = {name: {"strategy": "dedicated", "options": options}} if then else {}
    if vllm:
        address = f"{host or '127.0.0.1'}:{port or 8000}"
        entry = _vllm_entry(folder, card, name, address)
    else:
        entry = {"name": name, "provider": "local", "model": str(folder.absolute()), **LOCAL}
    if dry_run:
        return _print_config(entry, policies)
    if vllm:
        _exec_vllm(entry, policies)
    if config is None or not then:
        raise BadInput("give a config and, with --then, an expert of it to defer to")
    _run_gateway(config, entry, policies, host, port)


# The model runs on this machine, so it may read every data class.
LOCAL: dict[str, Any] = {"data_classes": ["public", "internal", "restricted"]}


def _vllm_entry(folder: Path, card: dict[str, Any], name: str, address: str) -> dict[str, Any]:
    """The config entry of the model as an expert that vLLM serves; `logit_bias` calibrates it."""
    if card["kind"] == "gate":
        raise BadInput("vLLM cannot serve a gate: serve the model without --vllm, or train a tag")
    bias = {str(card["tag_id"]): round(card.get("calibration", {}).get("offset", 0.0), 4)}
    command = ["vllm", "serve", str(folder.absolute()), "--served-model-name", name]
    command += ["--host", address.partition(":")[0], "--port", "{port}"]
    return {
        "name": name,
        "base_url": f"http://{address}/v1",
        "options": {"logit_bias": bias},
        **LOCAL,
        "launch": {"command": shlex.join(command)},
    }


def _print_config(entry: dict[str, Any], policies: dict[str, Any]) -> None:
    import yaml

    entries = {"experts": [entry], **({"policies": policies} if policies else {})}
    typer.echo(
        yaml.safe_dump(entries, sort_keys=False, default_flow_style=None, width=1000), nl=False
    )


def _exec_vllm(entry: dict[str, Any], policies: dict[str, Any]) -> None:
    """Prints the config entries, then replaces this process with vLLM's."""
    template = entry.pop("launch")["command"]
    port = entry["base_url"].removesuffix("/v1").rpartition(":")[2]
    command = shutil.which("vllm")
    if command is None:
        raise BadInput(
            "the command 'vllm' was not found: pip install vllm, add --dry-run to see the command,"
            " or serve without --vllm"
        )
    _print_config(entry, policies)
    sys.stdout.flush()
    os.execv(command, shlex.split(template.replace("{port}", port)))


def _run_gateway(
    config: Path,
    entry: dict[str, Any],
    policies: dict[str, Any],
    host: str | None,
    port: int | None,
) -> None:
    from routewright.cli.serve import end, welcome
    from routewright.config import Config, ExpertConfig, PolicyConfig, load
    from routewright.gateway.lines import log_to_stderr
    from routewright.gateway.server import run

    log_to_stderr()

    def extended() -> Config:
        original, name = load(config), entry["name"]
        experts = [expert.name for expert in original.experts]
        (policy,) = policies.values()
        if unknown := [expert for expert in policy["options"]["then"] if expert not in experts]:
            raise BadInput(f"no expert '{unknown[0]}' in the config: it has {', '.join(experts)}")
        if name in experts:
            raise BadInput(
                f"the config already has an expert '{name}': choose another name with --name"
            )
        return original.model_copy(
            update={
                "experts": [*original.experts, ExpertConfig(**entry)],
                "policies": {name: PolicyConfig(**policy), **original.policies},
                "default_policy": name,
            }
        )

    settings = extended()
    host = settings.server.host if host is None else host
    port = settings.server.port if port is None else port
    run(settings, host, port, lambda url: typer.echo(welcome(settings, url)), extended)
    end()


# --- shared by the commands -----------------------------------------------------------------------


def _frame(table: Path, split: str, drop_duplicates: bool) -> Any:
    """The rows of one split; all rows if the table has no column `split`."""
    import polars as pl

    from routewright.data import outcomes

    frame = outcomes.table(table, drop_duplicates=drop_duplicates)
    if split == outcomes.ALL or "split" not in frame.columns:
        return frame
    rows = frame.filter(pl.col("split") == split)
    if not len(rows):
        splits = ", ".join(sorted(str(name) for name in frame["split"].unique().to_list()))
        raise BadInput(f"'{table}' has no row with split '{split}': choose {splits} or all")
    return rows


def _train(items: Sequence[Any], base: str, out: Path, recipe: Recipe, json: bool) -> None:
    from routewright import dedicated
    from routewright.cli.asking import interruptible

    resume = "run the same command again: it continues from the last checkpoint"
    with interruptible(resume), _bar("training") as progress:
        dedicated.train(items, base, out, recipe, progress=progress)
    _report(json, f"'{out}': trained on {len(items)} lessons", lessons=len(items), folder=str(out))


@contextmanager
def _bar(description: str) -> Iterator[Any]:
    """A progress bar; yields a function that takes a description and the finished share."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda text, share: bar.update(task, description=text, completed=share, total=1.0)


def _scores(rows: Outcomes, experts: Sequence[str]) -> Any:
    """The experts' scores, (experts, n). Raises BadInput if one is unknown."""
    import numpy as np

    scores = rows.pool(experts).score.T
    if np.isnan(scores).any():
        missing = experts[int(np.isnan(scores).any(axis=1).argmax())]
        raise BadInput(f"'{missing}' has no score in some of the rows: interview it on them first")
    return scores


def _share(curve: Any, quality: float | None) -> float:
    """The smallest share ρ that reaches `quality`. Raises BadInput if none does."""
    import numpy as np

    reached = np.flatnonzero(curve >= quality)
    if not len(reached):
        best = np.floor(1e4 * curve.max()) / 1e4
        raise BadInput(f"no share reaches quality {quality:g}: choose {best:.4f} or less")
    return float(reached[0] / (len(curve) - 1))


def _report(json: bool, summary: str, **facts: Any) -> None:
    typer.echo(json_module.dumps(facts) if json else summary)
