"""Keeps the generated parts of the documentation in step with the code.

Between `<!-- generated: NAME -->` and `<!-- end -->` stands what the function of that name
prints. `python dev/check_docs.py` says which are stale, `--write` mends them. It also checks
that every relative link in the documents leads somewhere, that every test that they name exists,
that every promise in docs/security.md names one, and that every module has its level.
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import typer.main
from addresses import addresses
from typer.core import TyperGroup

import routewright
from routewright.cli.main import app
from routewright.metrics import METRICS
from routewright.registry import FAMILIES, class_name, find, names, options

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
DIRECTIVE = re.compile(r" *# doctest: .*")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
TEST = re.compile(r"`(test_\w+\.py)::(\w+)`")
PROMISES = re.compile(r"^\|.*\| test \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)


PAGES = {  # of commands whose page has another name
    "demo": "sandbox",
    "init": "start",
    "doctor": "start",
    "chat": "start",
    "prices": "config",
    "serve": "gateway",
    "experts": "launch",
    "check": "config",
    "convert": "datasets",
    "regrade": "interview",
    "tag": "zooter",
    "diversify": "zooter",
    "reward": "zooter",
    "fit": "routers",
    "evaluate": "report",
    "compare": "report",
    "card": "report",
    "calibrate": "routers",
    "route": "routers",
    **dict.fromkeys(("push", "pull"), "integrations"),
    "select": "selection",
    "dedicate": "dedicated",
    **dict.fromkeys(("spend", "decisions", "export", "keys", "db"), "records"),
}


def commands() -> str:
    """Every verb with its arguments and options."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    verbs = [*group.commands.items()]
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            verbs += [(f"{name} {verb}", inner) for verb, inner in command.commands.items()]
    parts = []
    for name, command in verbs:
        page = "" if " " in name else f" [More]({PAGES.get(name, name)}.md)"
        parts.append(f"## routewright {name}\n\n{_first(command.help)}{page}\n")
        shown = (p for p in command.params if not getattr(p, "hidden", False))
        rows = [_parameter(parameter) for parameter in shown]
        if rows:
            parts.append("| | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
        if command.epilog:
            parts.append(f"{command.epilog.replace('Example: ', 'Example: `')}`\n")
    return "\n".join(parts)


def _parameter(parameter) -> str:  # type: ignore[no-untyped-def]
    if parameter.param_type_name == "argument":
        name = f"`{str(parameter.name).upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in parameter.opts)
    default = "" if parameter.required or parameter.default is None else f"`{parameter.default}`"
    default = "" if default in ("`False`", "`None`") else default
    return f"| {name} | {default} | {getattr(parameter, 'help', '') or ''} |"


def strategies() -> str:
    return _family("strategies")


def encoders() -> str:
    return _family("encoders")


def predictors() -> str:
    """With the fields that `fit --option KEY=VALUE` sets, and their defaults."""
    settings = [
        ", ".join(f"`{key}={option.default}`" for key, option in options(member).items())
        for member in (find("predictors", name) for name in names("predictors"))
    ]
    _, rule, *rows = _family("predictors").splitlines()
    rows = [f"{row} {told} |" for row, told in zip(rows, settings, strict=True)]
    return "\n".join(["| name | | options |", f"{rule}---|", *rows, ""])


def graders() -> str:
    return _family("graders")


def _family(family: str) -> str:
    rows = []
    for name in names(family):
        module = import_module(f"{FAMILIES[family].package}.{name}")
        member = getattr(module, class_name(name))
        rows.append(f"| `{name}` | {_first(module.__doc__)} {_second(member.__doc__)} |")
    return "| name | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _first(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _second(text: str | None) -> str:
    """The paragraph after a class's first line: its options and limits."""
    parts = (text or "").strip().split("\n\n")
    return " ".join(parts[1].split()) if len(parts) > 1 else ""


def rewards() -> str:
    return _family("rewards")


def metrics() -> str:
    rows = [f"| {name} | {_first(f.__doc__)} |" for name, f in METRICS.items()]
    return "| metric | |\n|---|---|\n" + "\n".join(rows) + "\n"


def api() -> str:
    """The names of `routewright.__all__`: signature, docstring, example and public methods."""
    return "\n".join(_name(name, getattr(routewright, name)) for name in routewright.__all__)


def _name(name: str, value: Any) -> str:
    parts = [f"## {name}"]
    if not getattr(value, "_is_protocol", False):
        parts.append(f"`{name}{_signature(value)}`")
    parts += _paragraphs(inspect.getdoc(value) or "")
    if inspect.isclass(value) and (rows := _members(name, value)):
        parts.append("| | |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _paragraphs(docstring: str) -> list[str]:
    """The docstring's prose, and its examples as blocks."""
    parts: list[str] = []
    for is_example, group in groupby(
        (part for part in doctest.DocTestParser().parse(docstring) if not _blank(part)),
        lambda part: isinstance(part, doctest.Example),
    ):
        if is_example:
            lines = "".join(_as_typed(example) for example in group)
            parts.append(f"```pycon\n{lines}```")
        else:
            parts.append("".join(group).strip())
    return parts


def _blank(part: str | doctest.Example) -> bool:
    return isinstance(part, str) and not part.strip()


def _as_typed(example: doctest.Example) -> str:
    first, *more = DIRECTIVE.sub("", example.source).splitlines()
    return "\n".join([f">>> {first}", *(f"... {line}" for line in more), example.want])


def _members(name: str, value: type) -> list[str]:
    """A row for each public method and property that has a docstring of its own."""
    rows = []
    for member, found in vars(value).items():
        function = getattr(found, "__func__", getattr(found, "fget", getattr(found, "func", found)))
        if member.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        called = function is found or isinstance(found, classmethod | staticmethod)
        arguments = _signature(getattr(value, member)) if called else ""
        rows.append(f"| `{name}.{member}{arguments}` | {_first(function.__doc__)} |")
    return rows


def _signature(value: Any) -> str:
    """Without annotations and `self`; defaults that are made anew or are functions are `…`."""
    signature, none = inspect.signature(value), inspect.Parameter.empty
    bare = [
        parameter.replace(annotation=none)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    text = str(signature.replace(parameters=bare, return_annotation=none))
    return re.sub(r"=<.*?>(?=[,)])(?: at \w+>)?", "=…", text.replace("<lambda>", ""))


def upstream_faults() -> str:
    """What a client sees, and what is billed, when an upstream fails; see tests/faults.py."""
    rows = [f"| {f.happens} | {f.client} | {f.billed} |" for f in _faults().UPSTREAM]
    return "| an upstream: | the client sees | billed |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def other_faults() -> str:
    rows = [f"| {f.happens} | {f.client} | {f.billed} | `{f.test}` |" for f in _faults().OTHERS]
    heading = "| fault | what follows | billed | test |\n|---|---|---|---|\n"
    return heading + "\n".join(rows) + "\n"


def _faults() -> Any:
    sys.path.insert(0, str(ROOT / "tests"))
    return import_module("faults")


FAULTS = (upstream_faults, other_faults)
PARTS = (
    api,
    addresses,
    commands,
    strategies,
    encoders,
    predictors,
    graders,
    rewards,
    metrics,
    *FAULTS,
)
GENERATORS = {f.__name__: f for f in PARTS}


def _untested(text: str) -> list[str]:
    """Tests that a document names and that do not exist, and rows of promises without a test."""
    absent = [
        f"there is no test {file}::{name}"
        for file, name in TEST.findall(text)
        if not re.search(rf"^(async )?def {name}\(", _source(file), re.MULTILINE)
    ]
    rows = [row for table in PROMISES.findall(text) for row in table.splitlines()]
    return absent + [f"no test is named in: {row}" for row in rows if not TEST.search(row)]


@cache
def _source(file: str) -> str:
    path = ROOT / "tests" / file
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _without_level() -> list[str]:
    """Modules that the layers of CONTRIBUTING.md or of pyproject.toml leave out."""
    modules = [p.stem for p in (ROOT / "src" / "routewright").iterdir() if p.name[0] not in "_."]
    told = {
        "CONTRIBUTING.md": re.compile(r"`([a-z_]+)/?`"),
        "pyproject.toml": re.compile(r"routewright\.([a-z_]+)"),
    }
    listed = {
        file: set(spelt.findall((ROOT / file).read_text(encoding="utf-8")))
        for file, spelt in told.items()
    }
    return [
        f"{file}: module {module} has no level"
        for file, known in listed.items()
        for module in sorted({*modules} - {"py"} - known)
    ]


def main() -> int:
    write, problems = "--write" in sys.argv[1:], []
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda m: m[1] + GENERATORS[m[2]]() + m[3], text)
        if fresh != text and write:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            problems.append(f"{path.relative_to(ROOT)}: a generated part is stale: make docs")
        for target in LINK.findall(text):
            if not (path.parent / target).exists():
                problems.append(f"{path.relative_to(ROOT)}: the link to {target} leads nowhere")
        problems += [f"{path.relative_to(ROOT)}: {problem}" for problem in _untested(fresh)]
    problems += _without_level()
    print("\n".join(problems) or "docs are in sync")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
