"""What a crash, a full disk or a second process leaves of a file that is being written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from crash import BEGIN, at_every_system_call, state
from routewright import files
from routewright.data import journal, outcomes, queries
from routewright.dedicated import card
from routewright.errors import BadInput
from routewright.evaluation import plots
from routewright.prediction import language_models
from routewright.prediction.costs import CostModel
from routewright.prediction.encoders.domain import Domain
from routewright.prediction.predictors.prior import Prior
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.types import Query

OLD, NEW = 1, 2
HERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"  # for child processes
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ptrace is a part of Linux")


# --- everything that is written, in an old and a new version -------------------------------


def router(version: int) -> Router:
    """A small router, whose arrays and description both name the version."""
    mean, zero = np.array([0.5, version / 10]), np.zeros(2)
    costs = CostModel(centre=np.zeros(1), weights=np.zeros((1, 2)), mean=zero, floor=zero)
    spec = {"strategy": "fixed", "expert": "a"}
    point = OperatingPoint(0.0, 1.0, 1.0, 0.5, (0.4, 0.6), 0.0, (0.0, 0.0), spec, "always a")
    predictor = Prior(mean, mean)
    made = Router(("a", "b"), Domain(("sums",)), predictor, costs, mean, frontier=(point,))
    return replace(made, signal=version / 10)


def router_version(path: Path) -> int:
    loaded = Router.load(path)
    assert float(loaded.mean[1]) == loaded.signal, "the arrays of one save, the words of another"
    return round(10 * loaded.signal)


def frame(version: int) -> pl.DataFrame:
    names = [f"q{n}" for n in range(200)]
    return pl.DataFrame({"id": names, "prompt": names, "score::a": [version / 10] * 200})


def table_version(path: Path) -> int:
    table = outcomes.read(path)
    assert len(table) == 200
    return round(10 * float(table.score.mean()))


def write_queries(version: int, path: Path) -> None:
    texts = [f"{version} + {n}?" for n in range(50)]
    queries.write([queries.Item(Query.of(text, id=text)) for text in texts], path)


def queries_version(path: Path) -> int:
    items = queries.read(path)
    assert len(items) == 50
    return int(items[0].query.text[0])


def write_report(version: int, path: Path) -> None:
    files.write(path, f"{version}{'x' * 100_000}{version}")


def report_version(path: Path) -> int:
    text = path.read_text()
    assert text[0] == text[-1]
    return int(text[0])


def draw(version: int, path: Path) -> None:
    at = {"lambda": 0.0, "quality": 0.5, "quality_ci": [0.4, 0.6]}
    experts = {f"version-{version}": {"quality": 0.5, "cost": 0.0}}
    references = {"references": {"oracle": {"quality": 0.9}}}
    plots.curve({"experts": experts, "curve": [at], "n": 1} | references, path)


def picture_version(path: Path) -> int:
    svg = path.read_text()
    assert svg.rstrip().endswith("</svg>")
    return OLD if f"version-{OLD}" in svg else NEW


def write_card(version: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    card.write_card(folder, {"version": 1, "kind": "tag", "rows": version})


def write_model(version: int, folder: Path) -> None:
    """What transformers would write, in the order of its libraries."""

    class Model:
        def save_pretrained(self, folder: Path) -> None:
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                (folder / name).write_text(f"{version}" * 1000)

    language_models.save(language_models.Base(Model(), Model(), True, {}), folder)


def model_version(folder: Path) -> int:
    """Of a model in a new folder: NEW if it is there, OLD if nobody would take it for one."""
    if not (folder / "config.json").exists():
        return OLD
    assert len(list(folder.glob("[!.]*"))) == 3
    assert all(path.read_text() == f"{NEW}" * 1000 for path in folder.glob("[!.]*"))
    return NEW


def append(version: int, path: Path) -> None:
    with journal.Journal(path) as file:
        file.write(version=version, text="x" * 10_000)


class Writer(NamedTuple):
    name: str  # of the file or folder
    write: Callable[[int, Path], object]
    version: Callable[[Path], int]


WRITERS = {
    "router": Writer("router", lambda version, path: router(version).save(path), router_version),
    "parquet": Writer("t.parquet", lambda v, path: outcomes.save(frame(v), path), table_version),
    "jsonl": Writer("t.jsonl", lambda v, path: outcomes.save(frame(v), path), table_version),
    "queries": Writer("q.jsonl", write_queries, queries_version),
    "report": Writer("report.html", write_report, report_version),
    "picture": Writer("curve.svg", draw, picture_version),
    "card": Writer("dedicated", write_card, lambda path: int(card.read_card(path)["rows"])),
    "model": Writer("model", write_model, model_version),
    "journal": Writer("j.jsonl", append, lambda path: int(journal.read(path)[-1]["version"])),
}
NOT_REPLACED = ("model",)  # it is written to a new folder only


# --- crashes -------------------------------------------------------------------------------


def write_new(kind: str, path: str, can_swap: str) -> None:
    """Writes the new version; runs in a process of its own."""
    if not int(can_swap):
        files._exchange = lambda one, other: False
    with TemporaryDirectory() as rehearsal:  # imports what is imported late
        WRITERS[kind].write(NEW, Path(rehearsal) / WRITERS[kind].name)
    os.kill(os.getpid(), BEGIN)
    WRITERS[kind].write(NEW, Path(path))


@ONLY_LINUX
@pytest.mark.parametrize(("kind", "can_swap"), [*((kind, 1) for kind in WRITERS), ("router", 0)])
def test_a_crash_at_any_system_call_leaves_the_old_or_the_new(kind, can_swap, tmp_path: Path):
    _, write, version = WRITERS[kind]
    folder = tmp_path / "folder"
    target = folder / WRITERS[kind].name
    folder.mkdir()
    if kind not in NOT_REPLACED:
        write(OLD, target)
    states: list[Any] = []
    versions: list[int] = []

    def check() -> None:
        if (now := state(folder)) not in states[-1:]:
            states.append(now)
            versions.append(version(target))
            shutil.copytree(folder, tmp_path / str(len(states)))

    code = f"{HERE}; import test_files; test_files.write_new(*sys.argv[1:])"
    calls = at_every_system_call(["-c", code, kind, str(target), str(can_swap)], check)
    check()
    assert calls > 20
    assert len(states) > 2, "nobody has seen the file half written"
    assert versions == sorted(versions)
    assert (versions[0], versions[-1]) == (OLD, NEW)
    for n in range(len(states)):  # what a crash leaves is cleared up by the next save
        left = tmp_path / str(n + 1) / target.name
        write(NEW, left)
        assert version(left) == NEW
        assert [path.name for path in left.parent.iterdir()] == [target.name]
        assert not left.is_dir() or not list(left.glob(".*"))


def test_a_file_is_on_disk_before_its_name_points_to_it(tmp_path: Path, monkeypatch):
    """A machine that loses its power keeps what was synced; a name may reach the disk first."""
    events: list[tuple[str, str]] = []

    def fsync(handle: int, call: Any = os.fsync) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        call(handle)

    def exchange(one: Path, other: Path, call: Any = files._exchange) -> bool:
        events.append(("swap", other.name))
        return call(one, other)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files, "_exchange", exchange)
    router(OLD).save(tmp_path / "router")
    events.clear()
    router(NEW).save(tmp_path / "router")
    swap = events.index(("swap", "router"))
    assert {"router.json", "router.safetensors"} <= {name for _, name in events[:swap]}
    assert ("sync", tmp_path.name) in events[swap:]


# --- several processes ---------------------------------------------------------------------

SAVER = f"""
{HERE}
import test_files as t
if not int(sys.argv[2]):
    t.files._exchange = lambda one, other: False
for n in range(25):
    t.router(t.OLD + n % 2).save(t.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("can_swap", [1, 0])
def test_savers_and_readers_at_once_never_meet_half_a_router(can_swap, tmp_path: Path):
    target = tmp_path / "router"
    router(OLD).save(target)
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, target, str(can_swap)], stderr=-1, text=True)
        for _ in range(3)
    ]
    while any(saver.poll() is None for saver in savers):
        assert router_version(target) in (OLD, NEW)
    for saver in savers:
        assert (saver.wait(), saver.stderr.read()) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["router"]


def test_a_file_that_another_process_is_writing_is_no_leftover(tmp_path: Path):
    target = tmp_path / "report.json"
    with files.replacing(target) as first:
        files.write(target, "second")
        first.write_text("first")
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


# --- what a writer leaves alone ------------------------------------------------------------


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "t.parquet"
    outcomes.save(frame(OLD), target)
    full = pytest.raises(BadInput, match=r"t.parquet' cannot be written: no space left on device")
    with full, files.replacing(target) as partial:
        partial.write_bytes(b"half")
        raise OSError(28, os.strerror(28))
    assert table_version(target) == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_links_devices_and_rights_stay_as_they_are(tmp_path: Path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    files.write(real, "old")
    real.chmod(0o640)
    link.symlink_to(real)
    files.write(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    files.write(Path(os.devnull), "nothing")
    assert Path(os.devnull).is_char_device()
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


@pytest.mark.parametrize("name", [".", "..", "folder", "folder/.."])
def test_a_file_takes_the_place_of_no_folder(name, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="is a directory"):
        files.write(Path(name), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_router_takes_the_place_of_no_file_and_of_no_other_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="is a file: name a folder"):
        router(OLD).save(tmp_path / "file")
    with pytest.raises(BadInput, match="exists and is not a router"):
        router(OLD).save(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
