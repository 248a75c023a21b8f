"""A full disk: an interview stops before it asks what could not be kept, and old files stay whole.

The disk is a small tmpfs where this machine allows one, and otherwise a limit on the size of files,
which the system reports at the same calls.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from routewright.data import outcomes
from routewright.data.journal import DiskFull, Journal, read
from routewright.router.router import Router
from test_interview import PROMPTS, command, configure, interview, place, prompts_of, right, serving
from upstream import Upstream, status

__all__ = ["place"]  # the fixture


def limited(size: int):
    """Runs in the child: no file may become larger than `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def run(words: list[str], folder: Path, size: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=600, preexec_fn=limited(size)
    )


def answered(place: Path) -> int:
    return sum("answered" in event for event in read(place / "t.journal.jsonl"))


def is_one_sentence(printed: str, start: str) -> bool:
    """Whether an error was printed, as one message and without a traceback."""
    errors = [line for line in printed.splitlines() if line.startswith("Error: ")]
    return len(errors) == 1 and start in errors[0] and "Traceback" not in printed


# --- what was paid for can be written ------------------------------------------------------


@pytest.mark.parametrize("size", [4_000, 26_000])
def test_a_full_disk_stops_an_interview_before_the_next_ask(place: Path, size: int):
    """Every answer that the upstream gave is in the journal, and the next run goes on from it."""
    expert = Upstream(says=right)
    with serving(expert):
        configure(place, expert=expert)
        done = run(command(place), place, size)
        assert done.returncode == 2, done.stderr
        assert is_one_sentence(done.stderr, "no room for further answers"), done.stderr
        assert answered(place) == expert.finished < len(PROMPTS)
        assert (answered(place) == 0) == (size == 4_000)
        assert not (place / "t.parquet").exists()
        summary, printed = interview(place)
    assert summary["complete"]
    assert max(prompts_of(expert).values()) == 1
    assert "paid twice" not in printed


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (["tag", "--expert", "expert"], '["sums"]'),
        (["reward", "--model", "judge=expert"], "Rating: 7"),
    ],
)
def test_a_full_disk_stops_other_asks_too(place: Path, verb: list[str], says: str):
    expert = Upstream(says=right)
    with serving(expert):
        configure(place, expert=expert)
        config = yaml.safe_load((place / "routewright.yaml").read_text())
        config["policies"]["default"] = {"strategy": "fixed", "options": {"expert": "expert"}}
        (place / "routewright.yaml").write_text(yaml.safe_dump(config))
        interview(place)
        expert.says, expert.finished = says, 0
        first, *options = verb
        words = [sys.executable, "-m", "routewright.cli.main", first, "t.parquet", *options]
        words += ["--config", "routewright.yaml", "--out", "out.parquet"]
        done = run(words, place, 14_000)
        assert done.returncode == 2, done.stderr
        assert is_one_sentence(done.stderr, "no room for further answers"), done.stderr
        journal = read(place / "out.journal.jsonl")
        assert sum("answered" in event for event in journal) == expert.finished < len(PROMPTS)
        again = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert expert.finished == len(PROMPTS), "no answer was paid for twice"


TMPFS = """
set -e
mount -t tmpfs -o size=64k tmpfs disk
cp routewright.yaml q.jsonl disk/
cd disk
if "$@" 2> ../first; then exit 9; else echo $? > ../code; fi
cp t.journal.jsonl ../first.journal.jsonl
mount -o remount,size=8m .
"$@" 2> ../second
cp t.parquet ..
"""


def test_an_interview_goes_on_after_a_small_disk_was_full(place: Path):
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("this machine lets no test mount a tmpfs (unshare -rm mount)")
    (place / "disk").mkdir()
    words = " ".join(f"{word} more words than are needed" for word in ("It", "has", "many"))
    expert = Upstream(says=lambda body: f"{words * 20} {right(body)}")
    with serving(expert):
        configure(place, expert=expert)
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", TMPFS, "sh", *command(place)],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=600,
        )
    first, second = ((place / name).read_text() for name in ("first", "second"))
    assert done.returncode == 0, done.stderr + first + second
    assert (place / "code").read_text().strip() == "2"
    assert is_one_sentence(first, "no room for further answers"), first
    assert "No space left on device" in first
    stored = [event for event in read(place / "first.journal.jsonl") if "answered" in event]
    assert 0 < len(stored) < len(PROMPTS)
    assert max(prompts_of(expert).values()) == 1, "no answer was paid for twice"
    assert len(outcomes.read(place / "t.parquet")) == len(PROMPTS)


def test_an_answer_longer_than_expected_leaves_the_room_of_the_others(tmp_path: Path):
    """A line that does not fit is undone, and the room that others were promised is still there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.make_room(3_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_500, before[1]))
        try:
            with pytest.raises(Exception, match="cannot be written"):
                journal.write(answered="x" * 5_000)
            journal.write(answered="y" * 2_000)
            with pytest.raises(DiskFull):
                journal.make_room(2_000)
            journal.write(answered="z" * 900)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert b"\0" in path.read_bytes(), "the room is there until the journal is closed"
        assert [event["answered"][0] for event in read(path)] == ["y", "z"]
    assert [event["answered"][0] for event in map(json.loads, path.open())] == ["y", "z"]


@pytest.mark.parametrize("tail", [b"\0" * 70, b'{"a":3\0\0\0', b'{"a":"\0\0\0"}\n\0\0', b'{"a":3'])
def test_what_a_crash_leaves_behind_the_events_is_dropped(tmp_path: Path, tail: bytes):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n' + tail)
    assert read(path) == [{"a": 1}, {"a": 2}]
    with Journal(path) as journal:
        assert journal.entries == [{"a": 1}, {"a": 2}]
        journal.write(a=3)
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


# --- old files stay whole ------------------------------------------------------------------


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["diversify", "TABLE", "--out", "OUT"], "t.jsonl"),
        (["tag", "TABLE", "--clusters", "3", "--out", "OUT"], "t.parquet"),
        (
            ["fit", "TABLE", "--out", "OUT", "--strategy", "single", "--encoder", "surface"],
            "router",
        ),
        (["evaluate", "ROUTER", "TABLE", "--html", "OUT"], "report.html"),
    ],
)
def test_a_full_disk_leaves_the_old_file(
    words: list[str], out: str, outcome_table: Path, router_folder: Path, tmp_path: Path
):
    path = tmp_path / out
    if out == "router":
        shutil.copytree(router_folder, path)
    else:
        path.write_text("an older one")
    before = content(path)
    places = {"TABLE": outcome_table, "OUT": path, "ROUTER": router_folder}
    words = [str(places.get(word, word)) for word in words]
    done = run([sys.executable, "-m", "routewright.cli.main", *words], tmp_path, 400)
    assert done.returncode == 2, done.stderr
    assert is_one_sentence(done.stderr, "cannot be written"), done.stderr
    assert content(path) == before
    assert [file.name for file in tmp_path.iterdir()] == [out], "nothing else is left"
    if out == "router":
        Router.load(path)


def test_failures_are_recorded_within_the_room_too(place: Path):
    """An upstream that refuses fills the journal as well."""
    expert = Upstream(faults=[status(400, "no" * 500) for _ in PROMPTS])
    with serving(expert):
        configure(place, expert=expert)
        done = run(command(place), place, 24_000)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
