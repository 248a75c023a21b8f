"""Long commands that are killed at random moments: nothing is lost, and little is paid twice.

`ROUTEWRIGHT_KILLS=10 python -m pytest tests/test_kills.py` kills each command ten times, and
`ROUTEWRIGHT_SEED` chooses other moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml

from routewright.data import outcomes, queries
from routewright.data.journal import Journal, read
from routewright.data.queries import Item
from routewright.dedicated import training
from routewright.errors import BadInput
from routewright.fitting.fit import fit
from routewright.router.router import Router
from routewright.sandbox.skills import questions
from routewright.types import Query
from test_interview import serving
from upstream import Upstream

KILLS = int(os.environ.get("ROUTEWRIGHT_KILLS", "2"))
SEED = int(os.environ.get("ROUTEWRIGHT_SEED", "0"))
PROGRAM = [sys.executable, "-m", "routewright.cli.main"]
ROWS = 24
SAID = re.compile(r"At most \$([\d.]+) may have been paid twice, .* \((\d+) of them\)")


def says(body: dict) -> str:
    """The same text for the same request."""
    prompt = body["messages"][-1]["content"]
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()
    number = int(digest, 16)
    if "JSON array" in prompt:
        return json.dumps([_text(f"{digest}-{n}") for n in range(10)])
    if "JSON list" in prompt:
        return json.dumps([f"topic {number % 3}"])
    if "Rating: N" in prompt:
        return f"So so.\nRating: {1 + number % 10}"
    if "Verdict:" in prompt:
        return "correct" if number % 2 else "incorrect"
    return f"It is {number % 7}"


def _text(name: str) -> str:
    """Words that no other name gives."""
    return " ".join(
        hashlib.blake2b(f"{name} {n}".encode(), digest_size=3).hexdigest() for n in range(8)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A table with answers and a router that was fitted on it."""
    folder = tmp_path_factory.mktemp("made")
    rows = [
        {
            **{"id": f"q{n}", "prompt": _text(f"question {n}"), "reference": str(n % 7)},
            **{f"score::{name}": float((n * k) % 5 > 1) for k, name in ((3, "one"), (4, "two"))},
            **{f"cost::{name}": k * 1e-6 for k, name in ((1, "one"), (9, "two"))},
            **{f"answer::{name}": f"{name} says {n}" for name in ("one", "two")},
        }
        for n in range(ROWS)
    ]
    pl.DataFrame(rows).write_parquet(folder / "table.parquet")
    few = ("id", "prompt", "reference")
    lines = [json.dumps({name: row[name] for name in few}) for row in rows]
    (folder / "set.jsonl").write_text("\n".join(lines))
    (folder / "rate.py").write_text(
        "import time\ndef rate(prompt, answer):\n    time.sleep(0.01)\n    return len(answer) % 5\n"
    )
    fit(outcomes.read(folder / "table.parquet"), strategy="single", encoder="surface").save(
        folder / "router"
    )
    return folder


def configured(folder: Path, upstreams: dict[str, Upstream]) -> Path:
    experts = [upstream.expert(name) for name, upstream in upstreams.items()]
    policies = {"default": {"strategy": "fixed", "options": {"expert": "one"}}}
    path = folder / "routewright.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "experts": experts, "policies": policies}))
    return path


# --- dying ---------------------------------------------------------------------------------


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def kill(words: list[str], moment: Callable[[subprocess.Popen], None]) -> bool:
    """Runs a command until the moment and kills it; whether it was still running."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment(process)
    process.kill()
    return process.wait() == -9


def while_it_asks(upstreams: dict[str, Upstream], rng: random.Random, most: int):
    """A moment soon after the experts have received up to `most` further requests."""

    def moment(process: subprocess.Popen) -> None:
        last = asked(upstreams) + rng.randint(0, most)
        while process.poll() is None and asked(upstreams) < last:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))

    return moment


@dataclass
class Within:
    """A random moment of a run that takes about so long; it learns where a run was shorter."""

    seconds: float
    rng: random.Random

    def __call__(self, process: subprocess.Popen) -> None:
        began = time.monotonic()
        last = began + self.rng.uniform(0, self.seconds)
        while process.poll() is None and time.monotonic() < last:
            time.sleep(0.001)
        if process.poll() is not None:
            self.seconds = min(self.seconds, time.monotonic() - began)


def asked(upstreams: dict[str, Upstream]) -> int:
    return sum(upstream.requests for upstream in upstreams.values())


def paid_twice(upstreams: dict[str, Upstream]) -> tuple[float, int]:
    """US$ and number of the requests that an expert received more than once."""
    dollars, number = 0.0, 0
    for upstream in upstreams.values():
        for text, count in Counter(
            json.dumps(body, sort_keys=True) for body in upstream.bodies
        ).items():
            body = json.loads(text)
            usage = upstream.count(body, says(body))
            price = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 2.0) / 1e6
            dollars, number = dollars + (count - 1) * price, number + count - 1
    return dollars, number


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".partial", ".part"))]


# --- commands that ask ---------------------------------------------------------------------

COMMANDS = {
    "interview": "interview CONFIG SET --out OUT/t.parquet --grader judge=umpire --only one,two"
    " --verify 1 --max-tokens 20",
    "tag": "tag SET --out OUT/t.parquet --config CONFIG --expert umpire --min-count 1",
    "reward": "reward TABLE --out OUT/t.parquet --config CONFIG --model judge=umpire",
    "selfplay": "selfplay CONFIG ROUTER --out OUT/play --generator umpire --grader judge=umpire"
    " --rounds 2 --queries 12 --candidates 2 --strategy single --overlap-cosine 2 --max-tokens 20"
    " --plateau -1 --table TABLE",
}
UNIMPORTANT = ("latency", "reward_cost")


def words_of(command: str, made: Path, config: Path, out: Path) -> list[str]:
    places = {
        "CONFIG": config,
        "SET": made / "set.jsonl",
        "TABLE": made / "table.parquet",
        "ROUTER": made / "router",
        "OUT": out,
    }
    named = re.compile("|".join(places))
    words = [named.sub(lambda match: str(places[match[0]]), word) for word in command.split()]
    return [*PROGRAM, *words]


def results(out: Path) -> dict[str, object]:
    """What a command wrote, without what differs between two runs."""
    tables = {
        str(path.relative_to(out)): {
            name: column
            for name, column in pl.read_parquet(path).to_dict(as_series=False).items()
            if name.split("::")[0] not in UNIMPORTANT
        }
        for path in out.rglob("*.parquet")
    }
    texts = {path.name: path.read_text() for path in out.rglob("queries.jsonl")}
    rounds = [(r["number"], r["rows"], r["asked"]) for r in read(out / "play" / "rounds.jsonl")]
    return {"tables": tables, "texts": texts, "rounds": rounds}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_paid_for_is_kept_and_it_is_said_what_may_have_been_paid_twice(
    command: str, made: Path, tmp_path: Path
):
    rng = random.Random(f"{command} {SEED}")
    upstreams = {name: Upstream(says, delay=0.02) for name in ("one", "two", "umpire")}
    with serving(*upstreams.values()):
        config = configured(tmp_path, upstreams)
        whole = run(words_of(COMMANDS[command], made, config, tmp_path / "whole"))
        assert whole.returncode == 0, whole.stderr
        necessary = asked(upstreams)
        for upstream in upstreams.values():
            upstream.bodies.clear()
        out = tmp_path / "out"
        words = words_of(COMMANDS[command], made, config, out)
        killed = [
            kill(words, while_it_asks(upstreams, rng, 2 * necessary // (KILLS + 1)))
            for _ in range(KILLS)
        ]
        done = run(words)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(tmp_path / "whole")
    (journal,) = out.rglob("*journal.jsonl")
    events = read(journal)
    answers = Counter(event["answered"] for event in events if "answered" in event)
    assert set(answers.values()) == {1}, "an answer that was in the journal was asked for again"
    assert len(answers) == necessary
    match = SAID.search(done.stdout + done.stderr)
    dollars, number = (float(match[1]), int(match[2])) if match else (0.0, 0)
    twice, again = paid_twice(upstreams)
    print(f"{command}: {again} of {necessary} asks were paid for twice, ${twice:.6f};", end=" ")
    print(f"it says at most {number}, ${dollars:.6f}; {sum(killed)} kills hit")
    assert again == asked(upstreams) - necessary
    assert again <= number
    assert twice <= dollars + 1e-6
    assert leftovers(tmp_path) == []


def test_rewards_of_a_model_in_this_process_are_kept_too(made: Path, tmp_path: Path):
    rng = random.Random(SEED)
    command = f"reward TABLE --out OUT/t.parquet --model function={made / 'rate.py'}:rate"
    began = time.monotonic()
    whole = run(words_of(command, made, made, tmp_path / "whole"))
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    words = words_of(command, made, made, tmp_path / "out")
    moment = Within(seconds, rng)
    hits = sum(kill(words, moment) for _ in range(KILLS))
    print(f"reward with a function: {hits} of {KILLS} kills hit")
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    rated = [key for event in read(tmp_path / "out" / "t.journal.jsonl") for key in event["rated"]]
    assert len(rated) == len(set(rated)) == 2 * ROWS


# --- commands that train -------------------------------------------------------------------


def test_a_killed_fit_leaves_the_old_router_or_the_new_one(made: Path, tmp_path: Path):
    rng = random.Random(SEED)
    fit_words = "fit TABLE --split all --strategy single --encoder surface --seed 3"
    began = time.monotonic()
    whole = run(words_of(f"{fit_words} --out OUT", made, made, tmp_path / "whole"))
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "router"
    Router.load(made / "router").save(out)
    words = words_of(f"{fit_words} --out OUT", made, made, out)
    hits, moment = 0, Within(seconds, rng)
    for _ in range(KILLS):
        hits += kill(words, moment)
        Router.load(out)
    print(f"fit: {hits} of {KILLS} kills hit")
    done = run(words)
    assert done.returncode == 0, done.stderr
    weights = [path / "router.safetensors" for path in (out, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert Router.load(out).card["seed"] == 3
    assert leftovers(tmp_path) == []


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    pytest.importorskip("peft", reason="needs the extra 'lm'")
    from routewright.sandbox.export import export

    return export("lexis", tmp_path_factory.mktemp("base") / "lexis")


@pytest.mark.parametrize("kind", ["tag", "gate"])
def test_a_killed_training_continues_to_the_same_model(kind: str, base: Path, tmp_path: Path):
    rng = random.Random(f"{kind} {SEED}")
    items = [
        Item(Query.of(q.text, id=q.id), None if n % 2 else q.answer, facts={"failure": n % 2})
        for n, q in enumerate(questions(96, 5))
    ]
    queries.write(items, tmp_path / "lessons.jsonl")
    words = [*PROGRAM, "dedicate", "train", str(tmp_path / "lessons.jsonl"), "--base", str(base)]
    words += ["--epochs", "8", "--batch", "8", "--rank", "2", *(["--gate"] * (kind == "gate"))]
    began = time.monotonic()
    whole = run([*words, "--out", str(tmp_path / "whole")])
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "own"
    hits, moment = 0, Within(seconds, rng)
    for _ in range(KILLS):
        if (out / "dedicated.json").exists():
            shutil.rmtree(out)  # it was finished
        hits += kill([*words, "--out", str(out)], moment)
    print(f"dedicate train ({kind}): {hits} kills hit")
    done = run([*words, "--out", str(out)])
    assert done.returncode == 0 or "holds a finished model" in done.stderr, done.stderr
    for path in sorted(path for path in (tmp_path / "whole").iterdir() if path.is_file()):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert leftovers(tmp_path) == []


def test_a_training_that_died_before_its_first_checkpoint_begins_again(base: Path, tmp_path: Path):
    """Also where a copy of the base has been written already, and a checkpoint is cut off."""
    items = [Item(Query.of(q.text), facts={"failure": 1.0}) for q in questions(8, 5)]
    recipe = training.Recipe(kind="gate", epochs=1, rank=2)

    def dies(doing: str, share: float) -> None:
        if doing.startswith("training") or share:
            raise KeyboardInterrupt

    out = tmp_path / "own"
    with pytest.raises(KeyboardInterrupt):
        training.train(items, str(base), out, recipe, progress=dies)
    (out / "checkpoints" / "checkpoint-9").mkdir(parents=True, exist_ok=True)
    (out / "checkpoints" / "checkpoint-9" / "trainer_state.json").write_text('{"global_st')
    training.train(items, str(base), out, recipe)
    assert (out / "dedicated.json").exists()
    assert not (out / "checkpoints").exists()


# --- two at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_two_runs_on_one_journal_are_refused(command: str, made: Path, routewright, tmp_path: Path):
    upstreams = {name: Upstream(says) for name in ("one", "two", "umpire")}
    out = tmp_path / "out"
    place = out / "play" / "journal.jsonl" if command == "selfplay" else out / "t.journal.jsonl"
    with serving(*upstreams.values()), Journal(place):
        config = configured(tmp_path, upstreams)
        _, _, _, *words = words_of(COMMANDS[command], made, config, out)
        code, _, err = routewright(*words)
    assert (code, asked(upstreams)) == (2, 0)
    assert "another process is writing to the journal" in err


def test_two_trainings_in_one_folder_are_refused(base: Path, tmp_path: Path):
    items = [Item(Query.of("2 + 2?"), facts={"failure": 1.0})]
    with (
        training._lock(tmp_path),
        pytest.raises(BadInput, match="another process is training in"),
    ):
        training.train(items, str(base), tmp_path, training.Recipe())
