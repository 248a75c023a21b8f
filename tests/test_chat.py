"""`routewright chat`: a conversation with a policy, and one question in a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from upstream import Upstream, in_thread, status, wait_until


class Terminal:
    """A `routewright chat` in a terminal of its own."""

    def __init__(self, *words: object) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "routewright", "chat", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"},
        )
        os.close(theirs)
        self.shown = ""

    def until(self, text: str) -> str:
        """What is shown up to and with `text`."""
        while text not in self.shown:
            ready, _, _ = select.select([self.ours], [], [], 600)
            try:
                piece = os.read(self.ours, 4096) if ready else b""
            except OSError:  # the other end is closed
                piece = b""
            assert piece, f"it ended without {text!r}: {self.shown}"
            self.shown += piece.decode()
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def type(self, line: str) -> None:
        os.write(self.ours, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def write(folder: Path, *experts: dict[str, Any], **sections: Any) -> Path:
    names = [expert["name"] for expert in experts]
    policies = {
        "first": {"strategy": "fixed", "options": {"expert": names[0]}, "fallback": names[1:]},
        "last": {"strategy": "fixed", "options": {"expert": names[-1]}},
    }
    file = folder / "routewright.yaml"
    document = {"version": 1, "experts": list(experts), "policies": policies, **sections}
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def servers() -> Iterator[tuple[Upstream, Upstream]]:
    small, large = Upstream(says="four, I think"), Upstream(says="It is 4.")
    with in_thread(small, large):
        yield small, large


def test_one_question_answers_to_stdout_and_explains_on_stderr(routewright, tmp_path, servers):
    small, large = servers
    file = write(tmp_path, small.expert("small"), large.expert("large"))
    code, shown, aside = routewright("chat", file, "What is 2 + 2?")
    assert (code, shown) == (0, "four, I think\n")
    for part in ("small", "always small", "$0.00001"):
        assert part in aside
    assert small.bodies[0]["stream"], "the answer is streamed"
    code, shown, aside = routewright("chat", file, "And?", "--policy", "large", "--quiet")
    assert (code, shown, aside) == (0, "It is 4.\n", "")


def test_a_question_may_come_from_a_pipe_and_the_config_from_this_folder(
    routewright, tmp_path, servers, monkeypatch
):
    small, _ = servers
    write(tmp_path, small.expert("small"))
    monkeypatch.chdir(tmp_path)
    assert routewright("chat", "What is 2 + 2?")[1] == "four, I think\n"
    for words in ((), ("routewright.yaml",), ("-",)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("What is\n3 + 3?\n"))
        assert routewright("chat", *words)[1] == "four, I think\n"
        assert small.bodies[-1]["messages"][0]["content"] == "What is\n3 + 3?\n"


def test_json_has_the_answer_the_path_and_the_cost(routewright, tmp_path, servers):
    small, large = servers
    small.faults = [status(400)]
    file = write(tmp_path, small.expert("small"), large.expert("large"))
    code, shown, _ = routewright("chat", file, "What is 2 + 2?", "--json")
    told = json.loads(shown)
    assert code == 0
    assert (told["answer"], told["expert"]) == ("It is 4.", "large")
    assert (told["policy"], told["path"]) == ("first", "small:failed>large")
    assert told["cost"] == pytest.approx(11e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x", "--policy", "nobody"), "request one of auto"),
        (("x", "--data-class", "secret"), "'secret' is no data class"),
        (("x", "--data-class", "restricted"), "serves data class public, not restricted"),
        ((" ",), "the question is empty"),
    ],
)
def test_a_mistake_is_one_sentence_and_asks_nobody(routewright, tmp_path, servers, words, says):
    small, _ = servers
    code, shown, error = routewright("chat", write(tmp_path, small.expert("small")), *words)
    assert (code, shown) == (2, "")
    assert says in error
    assert small.requests == 0


def test_without_a_config_the_way_out_is_init(routewright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = routewright("chat", "What is 2 + 2?")
    assert code == 2
    assert "routewright init" in error


def test_a_conversation_shows_who_answered_and_obeys_its_commands(tmp_path, servers):
    small, large = servers
    classes = {"data_classes": ["public", "restricted"]}
    file = write(tmp_path, small.expert("small"), large.expert("large", **classes))
    terminal = Terminal(file)
    try:
        terminal.until("policy first")
        terminal.until("> ")
        terminal.type("What is 2 + 2?")
        terminal.until("four, I think")
        terminal.until("small · always small · $0.00001")
        terminal.type("/why")
        terminal.until("because  always small")
        terminal.type("/expert large")
        terminal.until("expert large")
        terminal.type("Are you sure?")
        terminal.until("It is 4.")
        assert [m["content"] for m in large.bodies[0]["messages"]] == [
            *("What is 2 + 2?", "four, I think", "Are you sure?")
        ]
        terminal.type("/polcy first")
        terminal.until("'/polcy' is no command: did you mean 'policy'?")
        terminal.type("/new")
        terminal.until("forgotten")
        terminal.type("/policy first")
        terminal.until("policy first")
        terminal.type("/data-class restricted")
        terminal.until("restricted")
        terminal.type("my diagnosis")
        terminal.until("small may not be asked, large stepped in")
        assert small.requests == 1
        terminal.type("/why")
        terminal.until("no: serves data class public, not")
        terminal.type("/quit")
        terminal.until("spent")
        assert terminal.process.wait(600) == 0
    finally:
        terminal.close()


def test_a_failure_and_ctrl_c_end_an_answer_and_not_the_conversation(tmp_path, servers):
    small, _ = servers
    small.faults = [status(400, "not today")]
    terminal = Terminal(write(tmp_path, small.expert("small")))
    try:
        terminal.until("> ")
        terminal.type("first")
        terminal.until("not today")
        small.delay = 60
        terminal.type("second")
        wait_until(lambda: small.requests == 2)
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.until("stopped")
        small.delay = 0
        terminal.type("third")
        terminal.until("four, I think")
        assert [m["content"] for m in small.bodies[-1]["messages"]] == ["third"]
        terminal.until("> ")
        os.write(terminal.ours, b"\x04")
        assert terminal.process.wait(600) == 0
    finally:
        terminal.close()


def test_an_answer_cannot_steer_the_terminal(tmp_path, servers):
    small, _ = servers
    small.says = "plain\x1b]0;title\x07\x1b[2Jtext"
    terminal = Terminal(write(tmp_path, small.expert("small")))
    try:
        terminal.until("> ")
        terminal.type("hello")
        shown = terminal.until("text")
        assert "plain]0;title[2Jtext" in shown
    finally:
        terminal.close()
