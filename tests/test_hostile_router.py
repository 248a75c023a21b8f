"""A router of a stranger, or a damaged one: it works, or one sentence says why it does not."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import mutations
import test_automix
from models import tiny_static_model
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput, BadRouter
from routewright.fitting import add_expert, automix
from routewright.fitting.automix import Cascade
from routewright.fitting.fit import fit
from routewright.router.router import Router
from tables import table, write
from test_automix import PRICES

TRIALS = 60  # damaged copies of each router


def plain() -> Outcomes:
    return read(table(80))


def exam() -> Outcomes:
    return read(test_automix.table(300))


def read(frame) -> Outcomes:
    with TemporaryDirectory() as folder:
        return outcomes.read(write(Path(folder), frame), split="train")


def stack() -> Router:
    encoder = "lexical+surface+domain"
    router = fit(plain(), strategy="single", encoder=encoder, predictor="stack")
    return with_points(router, {"strategy": "frugal", "trust": [0.9, 0.8], "last": "sage"})


def zooter() -> Router:
    return fit(plain(), strategy="single", encoder="surface", predictor="zooter")


def evidence() -> Router:
    """With verifications, log-probabilities and options."""
    frame = (
        test_automix.table(160)
        .select(pl.exclude("^.*::[xyz]$"))
        .with_columns(
            **{f"logprob::{name}": pl.col(f"verify::{name}") - 1 for name in ("small", "large")},
            **{f"verdicts::{name}": pl.lit(8) for name in ("small", "middle", "large")},
        )
    )
    router = fit(read(frame), encoder="surface+domain", predictor="domain")
    return with_points(
        router,
        {"strategy": "auto", "price": 1.0},
        {"strategy": "cascade_routing", "price": 1.0, "ahead": 2},
        {"strategy": "ratio_greedy", "budget": 0.01},
        {"strategy": "cascade", "ladder": ["small", "large"]},
    )


def with_points(router: Router, *specs: dict) -> Router:
    """The router with operating points of these strategies, whether they pay or not."""
    points = tuple(replace(router.frontier[0], spec=spec) for spec in specs)
    return replace(router, frontier=(*router.frontier, *points))


def agreement() -> Router:
    return automix.fit(exam(), Cascade(("small", "large"), ("x", "y", "z")), prices=PRICES)


def verification() -> Router:
    return automix.fit(exam(), Cascade(("small", "middle", "large")), prices=PRICES)


def extended() -> Router:
    two = plain().pool(("adder", "sage"))
    small = fit(two, strategy="single", predictor="linear", encoder="surface+domain")
    newcomer = add_expert.only(plain(), "speller")
    return add_expert.join(add_expert.study(small, two), newcomer).router


def pool() -> Router:
    rows = exam()
    parts = {"encoder": "surface", "predictor": "factor", "strategy": "single"}
    return fit(rows.pool(("small", "large")), auxiliary=rows.pool(("x", "y")), **parts)


MAKERS = (stack, zooter, evidence, agreement, verification, extended, pool)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[Callable[[], Router]], Path]:
    """The folder of a router, which is made when a test first needs it."""

    @cache
    def folder(make: Callable[[], Router]) -> Path:
        path = tmp_path_factory.mktemp("routers") / make.__name__
        make().save(path)
        return path

    return folder


@pytest.mark.parametrize("make", MAKERS)
def test_a_router_damaged_anywhere_works_or_says_why_not(make, saved, tmp_path: Path):
    mutations.use(saved(make), random.Random(0))
    refused: list[str] = []
    for trial in range(TRIALS):
        rng = random.Random(f"{make.__name__} {trial}")
        folder = tmp_path / str(trial)
        shutil.copytree(saved(make), folder)
        what = mutations.damage(folder, rng)
        with warnings.catch_warnings(action="ignore"):  # of NumPy, about numbers too large
            try:
                mutations.use(folder, rng)
            except BadInput as error:
                refused.append(str(error))
            except Exception as error:
                raise AssertionError(f"trial {trial} of {make.__name__}: {what}") from error
    assert TRIALS / 4 < len(refused) < TRIALS, "the damage is too small, or too large"
    assert max(map(len, refused)) < 600
    assert not any("\n" in sentence for sentence in refused)


# --- one fault at a time, from the command line ----------------------------------------------


def edit(folder: Path, **changes) -> None:
    path = folder / "router.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def described(folder: Path) -> dict:
    return json.loads((folder / "router.json").read_text())


def arrays(folder: Path, **changes: object) -> None:
    """Replaces arrays; `part__name` is the array `part/name`."""
    path = folder / "router.safetensors"
    stored = {name: np.array(array) for name, array in load_file(path).items()}
    stored |= {name.replace("__", "/"): np.asarray(array) for name, array in changes.items()}
    save_file(stored, path)


def lying_header(folder: Path) -> None:
    """A header that promises an array of 2⁶⁰ numbers."""
    header = {"router/mean": {"dtype": "F64", "shape": [2**60], "data_offsets": [0, 2**63 - 1]}}
    text = json.dumps(header).encode()
    (folder / "router.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def holes(folder: Path) -> None:
    """A file of 8 EiB that takes no space."""
    (folder / "router.json").unlink()
    with (folder / "router.json").open("wb") as file:
        file.truncate(2**42)


def pipe(folder: Path) -> None:
    (folder / "router.json").unlink()
    os.mkfifo(folder / "router.json")


def link(target: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / "router.json").unlink()
        (folder / "router.json").symlink_to(target)

    return replace


def folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "router.json").unlink()
    (folder / "router.json").mkdir()


def spec(**strategy: object) -> Callable[[Path], None]:
    """Every operating point has this strategy."""

    def replace(folder: Path) -> None:
        points = described(folder)["frontier"]
        edit(folder, frontier=[{**point, "spec": strategy} for point in points])

    return replace


def deep(folder: Path) -> None:
    inner: dict = {"strategy": "fixed", "expert": "adder"}
    for _ in range(70):
        other = {"strategy": "fixed", "expert": "adder"}
        inner = {"strategy": "mix", "first": inner, "second": other, "share": 0.5}
    spec(**inner)(folder)


def endless_walk(folder: Path) -> None:
    """A tree whose nodes lead in a circle, and a depth that says to walk on."""
    options = described(folder)["predictor"]["options"]
    place = [base["name"] for base in options["bases"]].index("trees")
    stored = load_file(folder / "router.safetensors")
    child = np.array(stored[f"predictor/{place}.child"])
    child[:] = np.repeat(np.roll(np.arange(len(child) // 2), 1), 2)
    arrays(folder, **{f"predictor__{place}.child": child})
    options["bases"][place]["options"]["depth"] = 10**12
    edit(folder, predictor={"name": "stack", "options": options})


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep": (lambda f: (f / "router.json").write_text("[" * 10**5), "nested too deeply"),
    "deep objects": (
        lambda f: (f / "router.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5),
        "nested too deeply",
    ),
    "deep card": (
        lambda f: edit(f, card=json.loads('{"a":' * 90 + "1" + "}" * 90)),
        "nested too deeply",
    ),
    "a list": (lambda f: (f / "router.json").write_text("[1]"), "does not describe a router"),
    "Latin-1": (lambda f: (f / "router.json").write_bytes(b'{"a": "\xe9"}'), "is not UTF-8 text"),
    "NaN": (lambda f: (f / "router.json").write_text('{"signal": NaN}'), "NaN is not a number"),
    "infinite": (lambda f: (f / "router.json").write_text('{"signal": 1e999}'), "is too large"),
    "long number": (
        lambda f: (f / "router.json").write_text('{"format": ' + "9" * 10**6 + "}"),
        "is too large",
    ),
    "holes": (holes, "is larger than"),
    "a pipe": (pipe, "is not a regular file"),
    "a device": (link("/dev/zero"), "is not a regular file"),
    "a foreign file": (link("/etc/passwd"), "is not JSON"),
    "a link to itself": (link("router.json"), "cannot be read"),
    "a folder": (folder_in_place_of_a_file, "is not a regular file"),
    "no experts": (lambda f: edit(f, experts=[]), "experts must not be empty"),
    "numbers for experts": (lambda f: edit(f, experts=[1, 2, 3]), "experts.0 must be text"),
    "an expert twice": (lambda f: edit(f, experts=["a", "a", "b"]), "names an expert twice"),
    "more experts": (
        lambda f: edit(f, experts=["a", "b", "c", "d"]),
        r"array 'mean' of the router has the shape \(3,\)",
    ),
    "newcomers": (lambda f: edit(f, newcomers=-1), "newcomers must be at least 0"),
    "signal": (lambda f: edit(f, signal="1"), "signal must be a number"),
    "encoder": (lambda f: edit(f, encoder={"name": "../x", "options": {}}), "no encoder is called"),
    "a card in a list": (lambda f: edit(f, card=[]), "card must be a"),
    "an unknown expert": (spec(strategy="fixed", expert="ghost"), "asks 'ghost'"),
    "an unknown strategy": (spec(strategy="os.system"), "no strategy is called 'os.system'"),
    "no strategy": (spec(expert="adder"), "a strategy needs a name"),
    "deep strategies": (deep, "nested too deeply"),
    "lying header": (lying_header, "is damaged"),
    "mean of another length": (
        lambda f: arrays(f, router__mean=np.zeros(7)),
        r"array 'mean' of the router has the shape \(7,\) and not \(3\)",
    ),
    "mean of another kind": (
        lambda f: arrays(f, router__mean=np.zeros(3, np.int64)),
        "must hold real numbers, not int64",
    ),
    "mean out of range": (lambda f: arrays(f, router__mean=np.full(3, 2.0)), "holds 2.0"),
    "infinite cost": (lambda f: arrays(f, costs__mean=np.full(3, np.inf)), "holds inf"),
    "endless walk": (endless_walk, "has a path that does not end"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_and_exit_code_2(fault, saved, routewright, tmp_path: Path):
    damage, message = FAULTS[fault]
    folder = tmp_path / "router"
    shutil.copytree(saved(stack), folder)
    damage(folder)
    code, out, error = routewright("route", folder, "add the numbers 1 and 2")
    assert (code, out) == (2, "")
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    with pytest.raises(BadRouter, match=message):
        Router.load(folder)


@pytest.mark.parametrize(
    "command",
    [
        "route ROUTER hello",
        "calibrate ROUTER --min-quality 0.5",
        "evaluate ROUTER TABLE",
        "check C",
    ],
)
def test_no_command_shows_a_traceback_of_a_hostile_router(command, saved, tmp_path: Path):
    folder = tmp_path / "router"
    shutil.copytree(saved(stack), folder)
    (folder / "router.json").write_text("[" * 10**5)
    config = tmp_path / "c.yaml"
    config.write_text(
        "version: 1\nexperts: [{name: a, base_url: http://127.0.0.1:1/v1, input_per_mtok: 1}]\n"
        "policies: {p: {strategy: single, router: router}}\n"
    )
    places = {"ROUTER": folder, "TABLE": folder.parent / "t.parquet", "C": config}
    write(tmp_path, table(40), "t.parquet")
    words = [str(places.get(word, word)) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "routewright", *words], capture_output=True, text=True
    )
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "router" in done.stderr + done.stdout


def test_a_model_of_another_size_is_refused_when_it_is_used(saved, tmp_path: Path):
    model = tiny_static_model(tmp_path / "model")
    fit(plain(), encoder=f"static={model}", predictor="linear", strategy="single").save(
        tmp_path / "r"
    )
    stored = described(tmp_path / "r")
    stored["encoder"]["options"]["width"] = 9
    edit(tmp_path / "r", encoder=stored["encoder"])
    with pytest.raises(BadInput, match=r"9|another shape|gives vectors of 8 numbers"):
        Router.load(tmp_path / "r").predict(mutations.QUERIES)
