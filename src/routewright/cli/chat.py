"""`routewright chat`: talks to a policy in the terminal, without a port."""

from __future__ import annotations

import asyncio
import json as json_module
import re
import sys
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright.errors import BadInput, RoutewrightError

if TYPE_CHECKING:
    from routewright.config import Config
    from routewright.experts.client import Client
    from routewright.gateway.policies import Policies, Policy
    from routewright.types import Decision, Expert, Message, Query

CONFIG = "routewright.yaml"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # that could change the terminal
HELP = """\
/why                why the last answer came from its expert
/policy [NAME]      choose a policy; without a name, list them
/expert [NAME]      talk to one expert; without a name, list them
/data-class [NAME]  how far your texts may travel: public, internal or restricted
/new                forget the conversation
/help               show this
/quit               leave; Ctrl-D does the same"""


def chat(
    config: Annotated[
        str | None, typer.Argument(help="The config; default: routewright.yaml in this folder.")
    ] = None,
    question: Annotated[
        str | None,
        typer.Argument(help="One question: answer it and exit. `-` reads standard input."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="A policy or an expert of the config; /policy changes it.")
    ] = "auto",
    data_class: Annotated[
        str | None,
        typer.Option(help="How far the texts may travel; default: that of the config."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="With a question: print one JSON object.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only the answers.")] = False,
) -> None:
    """Talk to a policy in the terminal; see who answered, why, and what it cost.

    The answer goes to standard output, everything else to standard error. So with a question, or
    with a question on standard input, the command can be used in a pipe. No gateway is needed.
    """
    from routewright.config import load

    file, question = _arguments(config, question)
    settings = load(file)
    talk = Talk.of(settings, policy, data_class, quiet or json)
    with asyncio.Runner() as runner:
        try:
            if question is None:
                _converse(talk, runner)
            else:
                _answer_once(talk, runner, question, json)
        finally:
            runner.run(talk.client.close())


def _arguments(config: str | None, question: str | None) -> tuple[Path, str | None]:
    """The config and the question. A single argument that is no file is the question."""
    if config is not None and question is None and not _is_config(config):
        config, question = None, config
    if question == "-" or (question is None and not sys.stdin.isatty()):
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise BadInput('the question is empty: write it as in `routewright chat "What is 2 + 2?"`')
    file = Path(config or CONFIG)
    if config is None and not file.exists():
        raise BadInput(f"there is no '{CONFIG}' here: run `routewright init`, or give its path")
    return file, question


def _is_config(word: str) -> bool:
    if word.endswith((".yaml", ".yml")):
        return True
    with suppress(OSError, ValueError):  # a question may be too long for a path
        return Path(word).is_file()
    return False


@dataclass
class Talk:
    """A conversation with a policy, or with an expert."""

    policies: Policies
    experts: dict[str, Expert]
    client: Client
    policy: str
    data_class: Any
    quiet: bool
    console: Console = field(
        default_factory=lambda: Console(stderr=True, soft_wrap=True, highlight=False)
    )
    messages: tuple[Message, ...] = ()
    last: tuple[Query, Decision, Policy] | None = None
    spent: float = 0.0  # US$

    @classmethod
    def of(cls, config: Config, policy: str, data_class: str | None, quiet: bool) -> Talk:
        from routewright.experts.client import Client
        from routewright.gateway.policies import Policies

        experts = config.experts_by_name()
        policies = Policies(config)
        policies.find(policy)
        chosen = _data_class(data_class or config.server.default_data_class)
        return cls(policies, experts, Client(experts.values()), policy, chosen, quiet)

    async def ask(self, text: str, show: Callable[[str], None]) -> Decision:
        """Asks a question, shows the answer while it arrives, and remembers both."""
        from routewright import drive
        from routewright.types import Delta, Query

        question = {"role": "user", "content": text}
        query = Query((*self.messages, question), data_class=self.data_class)
        policy = self.policies.find(self.policy)
        strategy = policy.strategy_for(query)
        try:
            events = drive.live(strategy, query, self.experts.values(), self.client, stream=True)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Delta):
                        show(event.text)
                    else:
                        decision = event
        except RoutewrightError as error:
            self.spent += sum(answer.cost for answer in error.spent)
            raise
        self.spent += decision.cost
        self.last = query, decision, policy
        answer = {"role": "assistant", "content": decision.answer.text}
        self.messages = (*query.messages, answer)
        return decision

    def summary(self, decision: Decision, seconds: float) -> dict[str, Any]:
        """What there is to say about an answer; costs in US$."""
        name = self.policies.find(self.policy).name
        return {
            "answer": decision.answer.text,
            "expert": decision.answer.expert,
            "policy": name,
            "because": decision.because,
            "path": decision.path,
            "cost": decision.cost,
            "input_tokens": decision.answer.input_tokens,
            "output_tokens": decision.answer.output_tokens,
            "finish_reason": decision.answer.finish_reason,
            "data_class": self.data_class,
            "seconds": round(seconds, 3),
        }

    def footer(self, summary: dict[str, Any]) -> str:
        parts = [summary["expert"], summary["because"], f"${summary['cost']:.6f}"]
        if summary["path"] != summary["expert"]:
            parts.insert(1, summary["path"])
        if summary["finish_reason"] == "length":
            parts.append("cut off at its limit")
        return " · ".join([part for part in parts if part] + [f"{summary['seconds']:.1f} s"])


def _data_class(name: str) -> str:
    from routewright.registry import way_out
    from routewright.types import DATA_CLASSES

    if name not in DATA_CLASSES:
        raise BadInput(f"'{name}' is no data class: {way_out(name, DATA_CLASSES)}")
    return name


def _show_piece(text: str) -> None:
    """Writes a piece of an answer; control characters cannot reach a terminal."""
    if sys.stdout.isatty():
        text = CONTROL.sub("", text)
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # half a surrogate pair, or a terminal without Unicode
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _ask(
    talk: Talk, runner: asyncio.Runner, text: str, show: Callable[[str], None]
) -> dict[str, Any]:
    began = time.monotonic()
    decision = runner.run(talk.ask(text, show))
    return talk.summary(decision, time.monotonic() - began)


def _answer_once(talk: Talk, runner: asyncio.Runner, question: str, json: bool) -> None:
    summary = _ask(talk, runner, question, (lambda text: None) if json else _show_piece)
    if json:
        typer.echo(json_module.dumps(summary, indent=2))
        return
    _show_piece("\n")
    if not talk.quiet:
        talk.console.print(talk.footer(summary), style="dim", markup=False)


# --- the conversation --------------------------------------------------------------------------


def _converse(talk: Talk, runner: asyncio.Runner) -> None:
    """Reads lines until Ctrl-D. Ctrl-C ends an answer; at the prompt it ends the conversation."""
    with suppress(ImportError):
        import readline  # noqa: F401  # gives `input` a history and arrow keys
    if not talk.quiet:
        talk.console.print(f"{_place(talk)}. /help lists the commands.", markup=False)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            talk.console.print()
            break
        if line in ("/quit", "/exit"):
            break
        try:
            if line.startswith("/"):
                _command(talk, line)
            elif line:
                _turn(talk, runner, line)
        except RoutewrightError as error:
            talk.console.print(Text.assemble(("Error: ", "bold red"), str(error)))
    if talk.spent and not talk.quiet:
        talk.console.print(f"${talk.spent:.6f} spent", style="dim")


def _turn(talk: Talk, runner: asyncio.Runner, line: str) -> None:
    try:
        summary = _ask(talk, runner, line, _show_piece)
    except KeyboardInterrupt:
        talk.console.print("\nstopped; the question is forgotten", style="dim")
        return
    finally:
        _show_piece("\n")
    if not talk.quiet:
        talk.console.print(talk.footer(summary), style="dim", markup=False)


def _place(talk: Talk) -> str:
    name = talk.policies.find(talk.policy).name
    who = f"expert {talk.policy}" if talk.policy in talk.policies.experts else f"policy {name}"
    return f"You talk to {who}; your texts are {talk.data_class}"


def _command(talk: Talk, line: str) -> None:
    from routewright.registry import way_out

    verb, _, argument = line[1:].partition(" ")
    argument = argument.strip()
    commands: dict[str, Callable[[str], None]] = {
        "why": lambda _: _why(talk),
        "policy": lambda name: _choose(talk, name, list(talk.policies.by_name)),
        "expert": lambda name: _choose(talk, name, list(talk.policies.experts)),
        "data-class": lambda name: _set_data_class(talk, name),
        "new": lambda _: _forget(talk),
        "help": lambda _: talk.console.print(HELP, markup=False),
    }
    if verb not in commands:
        raise BadInput(f"'/{verb}' is no command: {way_out(verb, [*commands, 'quit'])}")
    commands[verb](argument)


def _choose(talk: Talk, name: str, names: list[str]) -> None:
    from routewright.registry import way_out

    if not name:
        talk.console.print(f"{_place(talk)}. Others: {', '.join(names)}", markup=False)
        return
    name = name.removeprefix("routewright/")
    if name not in names and not (name == "auto" and names == list(talk.policies.by_name)):
        raise BadInput(f"'{name}' does not exist: {way_out(name, names)}")
    talk.policy = name
    talk.console.print(f"{_place(talk)}.", markup=False)


def _set_data_class(talk: Talk, name: str) -> None:
    if name:
        talk.data_class = _data_class(name)
    talk.console.print(f"{_place(talk)}.", markup=False)
    if name and talk.messages:
        talk.console.print("The conversation so far is sent too; /new forgets it.", style="dim")


def _forget(talk: Talk) -> None:
    talk.messages, talk.last = (), None
    talk.console.print("The conversation is forgotten.")


def _why(talk: Talk) -> None:
    """Shows the path, the reason, and each expert with its forecast or why it was not asked."""
    from routewright.gateway.explain import table

    if talk.last is None:
        raise BadInput("there is no answer yet: ask something first")
    query, decision, policy = talk.last
    prediction = decision.prediction
    if prediction is None and policy.router is not None:
        prediction = policy.router.predict([query]).take(0)
    rows = table(query, talk.experts.values(), prediction, decision.rejected)
    shown = Table("expert", "expected %", "expected US$", "may be asked")
    for row in rows:
        quality, cost = row.get("quality"), row.get("cost")
        shown.add_row(
            Text(row["name"]),
            "–" if quality is None else f"{100 * quality:.1f}",
            "–" if cost is None else f"{cost:.6f}",
            Text("yes" if row["admissible"] else f"no: {row['reason']}"),
        )
    talk.console.print(f"path     {decision.path}", markup=False)
    talk.console.print(
        f"because  {decision.because or 'its policy names this expert'}", markup=False
    )
    talk.console.print(f"cost     ${decision.cost:.6f}", markup=False)
    talk.console.print(shown)
