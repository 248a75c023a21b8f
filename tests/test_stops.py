"""Long commands when an expert cannot answer any more, when it asks for a pause, and when they are
stopped by Ctrl-C or SIGTERM: a real server, and real processes wherever a signal is sent."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from aiohttp import web

from routewright.data import queries
from routewright.data.journal import read
from routewright.data.queries import Item
from routewright.sandbox.skills import questions
from routewright.types import Query
from test_interview import command, configure, place, prompts_of, right, serving
from test_kills import COMMANDS, PROGRAM, asked, base, configured, made, says, words_of
from upstream import Upstream, hang, status, wait_until

__all__ = ["base", "made", "place"]  # fixtures

RESUME = "run the same command again"


@pytest.fixture
def here(routewright, monkeypatch):
    """Runs the words of a process in this one, which has loaded everything already; returns its
    exit code and what it printed."""

    def call(words: list[str], folder: Path) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        return routewright(*words[len(PROGRAM) :])

    return call


@pytest.fixture
def asking(here, place):
    """Runs `interview` in this process; returns its summary and what it said to people."""

    def call(*options: object, code: int = 0, **named: object) -> tuple[dict, str]:
        exit_code, out, err = here(command(place, "--json", *options, **named), place)
        assert exit_code == code, err
        return (json.loads(out) if out.strip() else {}), err

    return call


def refusal(code: int, error: dict, **headers: str):
    """Answers with this error, whatever it is asked."""

    async def fault(upstream: Upstream, request: web.Request, body: object) -> web.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.json_response({"error": error}, status=code, headers=named)

    return fault


QUOTA = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
LASTING = {
    "quota": (refusal(429, QUOTA), "no credit left"),
    "quota with Retry-After": (refusal(429, QUOTA, Retry_After="1"), "no credit left"),
    "hard limit": (
        refusal(400, {"message": "Billing hard limit", "code": "billing_hard_limit_reached"}),
        "no credit left",
    ),
    "402": (refusal(402, {"message": "Insufficient Balance"}), "no credit left"),
    "Anthropic": (
        refusal(
            400,
            {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the Anthropic API.",
            },
        ),
        "no credit left",
    ),
    "account": (
        refusal(403, {"message": "no", "code": "account_deactivated"}),
        "account is closed",
    ),
    "key": (refusal(401, {"message": "Incorrect API key provided"}), "`api_key:`"),
    "forbidden": (refusal(403, {"message": "no access for this key"}), "`api_key:`"),
    "model": (refusal(404, {"message": "The model `x` does not exist"}), "`model:`"),
    "model, by 400": (refusal(400, {"message": "Invalid model: x", "code": 1500}), "`model:`"),
    "an hour": (status(429, "slow down", Retry_After="3600"), "60 min"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_an_expert_that_waiting_does_not_help_is_asked_no_more_and_the_way_out_is_told(
    place, asking, kind
):
    fault, words = LASTING[kind]
    dead, good = Upstream(right, faults=[None] * 3 + [fault] * 99), Upstream(right)
    with serving(dead, good):
        configure(place, dead=dead, good=good)
        summary, said = asking(concurrency=1)
        assert (dead.requests, good.requests) == (4, 30)
        assert said.count(words) == 1, said
        assert "27 of its 30 answers are missing" in said
        assert RESUME in said
        assert summary["unavailable"] == ["dead"]
        assert words in summary["left_out"]["dead"]
        dead.faults.clear()
        again, _ = asking()
    assert again["complete"]
    assert set(prompts_of(good).values()) == {1}
    assert dead.requests == 31, "what was answered was asked again"


PASSING = {
    "moderation": refusal(403, {"message": "Your input was flagged by moderation"}),
    "Gemini's limit per minute": refusal(
        429,
        {
            "message": "You exceeded your current quota. Please retry in 0.1s.",
            "status": "RESOURCE_EXHAUSTED",
        },
        Retry_After="0.1",
    ),
    "a proxy": refusal(503, {"message": "the model x does not exist"}),
    "the query": refusal(400, {"message": "this field is not supported with this model"}),
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_failure_of_one_query_does_not_stop_the_expert(place, asking, kind):
    small = Upstream(right, faults=[None, PASSING[kind]])
    with serving(small):
        configure(place, small=small)
        summary, _ = asking(concurrency=1)
    assert summary["experts"]["small"]["answers"] >= 29
    assert not summary["left_out"]


def test_a_judge_without_credit_is_asked_no_more_and_the_answers_are_kept(place, asking):
    small, judge = Upstream(right), Upstream(right, faults=[refusal(429, QUOTA)] * 99)
    with serving(small, judge):
        configure(place, small=small, umpire=judge)
        named = {"only": "small", "grader": "judge=umpire", "concurrency": 1}
        _, said = asking(code=2, **named)
        assert (judge.requests, small.requests) == (1, 30)
        assert said.count("no credit left") == 1
        judge.faults.clear()
        again, _ = asking(**named)
    assert again["experts"]["small"]["graded"] == 30
    assert small.requests == 30


@pytest.mark.parametrize("name", ["tag", "reward"])
def test_other_commands_stop_too_and_ask_only_what_is_missing(
    name, made: Path, tmp_path: Path, here
):
    dead = [None] * 10 + [refusal(402, {"message": "pay first"})] * 99
    upstreams = {n: Upstream(says, faults=dead if n == "umpire" else []) for n in ("one", "umpire")}
    with serving(*upstreams.values()):
        config = configured(tmp_path, upstreams)
        words = words_of(COMMANDS[name], made, config, tmp_path)
        code, _, told = here(words, tmp_path)
        assert code == 0, told
        assert told.count("pay first") == 1
        assert f"not done: {RESUME}" in told
        assert upstreams["umpire"].requests <= 10 + 2 * 8, "it was asked on"
        dead.clear()
        before = asked(upstreams)
        _, _, told = here(words, tmp_path)
        assert "not done" not in told
        assert asked(upstreams) - before < 48
    assert pl.read_parquet(tmp_path / "t.parquet").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("name", ["tag", "reward"])
def test_a_command_without_any_answer_writes_nothing_and_fails(
    name, made: Path, tmp_path: Path, here
):
    umpire = Upstream(says, faults=[refusal(401, {"message": "bad key"})] * 99)
    with serving(umpire, one := Upstream(says)):
        config = configured(tmp_path, {"one": one, "umpire": umpire})
        code, _, told = here(words_of(COMMANDS[name], made, config, tmp_path), tmp_path)
    assert code == 2
    assert told.count("bad key") == 1
    assert not (tmp_path / "t.parquet").exists()


def test_a_generator_without_credit_leaves_the_round_open(made: Path, tmp_path: Path, here):
    fault = refusal(402, {"message": "pay first"})
    upstreams = {name: Upstream(says) for name in ("one", "two", "umpire")}
    upstreams["umpire"].faults = [fault] * 9
    with serving(*upstreams.values()):
        config = configured(tmp_path, upstreams)
        words = words_of(COMMANDS["selfplay"], made, config, tmp_path)
        _, _, told = here(words, tmp_path)
        assert told.count("pay first") == 1
        assert RESUME in told
        assert [r["number"] for r in read(tmp_path / "play" / "rounds.jsonl")] == [0]
        upstreams["umpire"].faults.clear()
        _, _, told = here(words, tmp_path)
    assert [r["number"] for r in read(tmp_path / "play" / "rounds.jsonl")] == [0, 1, 2], told


# --- pauses --------------------------------------------------------------------------------


def test_a_pause_is_one_line_in_a_log(place, asking):
    busy = Upstream(right, faults=[None] + [status(429, "slow down", Retry_After="1")] * 4)
    with serving(busy):
        configure(place, busy=busy)
        _, said = asking()
    assert said.count("busy waits 1 s: HTTP 429: slow down") == 1


def test_a_pause_is_shown_on_a_terminal(place):
    with serving(small := Upstream(right, faults=[status(429, "busy", Retry_After="600")])):
        configure(place, small=small)
        primary, terminal = pty.openpty()
        with subprocess.Popen(command(place), cwd=place, stdout=terminal, stderr=terminal) as run:
            os.close(terminal)
            shown = ""
            while "small waits 59" not in shown:
                shown += os.read(primary, 1 << 16).decode()
            run.send_signal(signal.SIGINT)
            while True:
                try:
                    shown += os.read(primary, 1 << 16).decode()
                except OSError:
                    break
    assert run.returncode == 130
    assert "small waits 10 min" not in shown, "the bar shows it already"


# --- signals -------------------------------------------------------------------------------


@contextmanager
def begun(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> str:
    """What a process says to its end, which must be that of an interruption."""
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait(600) == 130, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_ends_a_pause_and_what_was_paid_for_is_kept(
    name, sign, made: Path, tmp_path: Path, here
):
    upstreams = {n: Upstream(says) for n in ("one", "two", "umpire")}
    upstreams["umpire"].faults = [None] * 3 + [status(429, "busy", Retry_After="600")]
    with serving(*upstreams.values()):
        config = configured(tmp_path, upstreams)
        words = words_of(COMMANDS[name], made, config, tmp_path)
        with begun(words, tmp_path) as process:
            line = next(line for line in process.stdout if "waits" in line)
            assert "umpire waits 10 min: HTTP 429: busy" in line
            process.send_signal(sign)
            assert RESUME in ended(process)
        paid = [event for path in tmp_path.rglob("*journal.jsonl") for event in read(path)]
        answered = sum("answered" in event for event in paid)
        assert answered == sum(upstream.finished for upstream in upstreams.values())
        assert here(words, tmp_path)[0] == 0
        for upstream in upstreams.values():
            asks = Counter(json.dumps(body, sort_keys=True) for body in upstream.bodies)
            assert sum(count - 1 for count in asks.values()) <= 1, "all but the busy one, once"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_signal_does_not_wait_for_answers(name, sign, made: Path, tmp_path: Path):
    umpire = Upstream(says, faults=[hang] * 99)
    upstreams = {"one": Upstream(says), "two": Upstream(says), "umpire": umpire}
    with serving(*upstreams.values()):
        config = configured(tmp_path, upstreams)
        with begun(words_of(COMMANDS[name], made, config, tmp_path), tmp_path) as process:
            wait_until(lambda: umpire.requests)
            process.send_signal(sign)
            assert next(line for line in process.stdout if "Stopping after the pending" in line)
            process.send_signal(sign)
            assert RESUME in ended(process)


def test_the_second_signal_does_not_wait_for_a_grader_either(place):
    (place / "slow.py").write_text(
        "import pathlib, time\n"
        "def grade(item, answer):\n"
        "    pathlib.Path('grading').touch()\n"
        "    time.sleep(600)\n"
    )
    with serving(small := Upstream(right)):
        configure(place, small=small)
        with begun(command(place, grader="function=slow:grade"), place) as process:
            wait_until((place / "grading").exists)
            process.send_signal(signal.SIGINT)
            assert next(line for line in process.stdout if "Stopping after the pending" in line)
            process.send_signal(signal.SIGINT)
            ended(process)


def test_ctrl_c_twice_ends_a_fit(made: Path, tmp_path: Path):
    words = words_of("fit TABLE --split all --out OUT", made, made, tmp_path / "router")
    with begun(words, tmp_path) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        if not maps.exists():
            pytest.skip("this system does not show what a process has loaded")
        wait_until(lambda: "sklearn" in maps.read_text())
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert "Interrupted" in ended(process)
    assert not (tmp_path / "router").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_does_not_change_the_exit_code(sign: signal.Signals):
    program = (
        "import os, sys\n"
        "class Late:\n"
        f"    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, {int(sign)})\n"
        "late = Late()\n"
        "sys.argv = ['routewright', '--version']\n"
        "from routewright.cli.main import run\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_within_code_made_from_a_text_leaves_the_exit_code(tmp_path: Path):
    program = """from routewright.cli import main
main.app = lambda: exec("raise KeyboardInterrupt")
main.run()
"""
    (tmp_path / "program.py").write_text(program)
    words = [sys.executable, "-m", "program"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_ctrl_c_twice_ends_a_training_and_says_how_to_continue(base: Path, tmp_path: Path):
    items = [
        Item(Query.of(q.text, id=q.id), None if n % 2 else q.answer, facts={"failure": n % 2})
        for n, q in enumerate(questions(96, 5))
    ]
    queries.write(items, tmp_path / "lessons.jsonl")
    words = [*PROGRAM, "dedicate", "train", str(tmp_path / "lessons.jsonl"), "--base", str(base)]
    words += ["--gate", "--batch", "4", "--rank", "2", "--out", str(tmp_path / "own")]
    with begun([*words, "--epochs", "3000"], tmp_path) as process:
        wait_until((tmp_path / "own" / "checkpoints").exists)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert "continues from the last checkpoint" in ended(process)
