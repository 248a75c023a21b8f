"""Keeps the generated parts of the documentation in step with the code.

Between `<!-- generated: NAME -->` and `<!-- end -->` stands what the function of that name
prints. `python dev/check_docs.py` says which are stale, `--write` mends them. It also checks
that every relative link in the documents leads somewhere, and that every module has its level.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib import import_module
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from routewright.cli.main import app
from routewright.metrics import METRICS
from routewright.prediction.predictors import settable
from routewright.registry import FAMILIES, class_name, find, names

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")


PAGES = {  # of commands whose page has another name
    "demo": "sandbox",
    "serve": "gateway",
    "experts": "launch",
    "check": "config",
    "convert": "datasets",
    "tag": "zooter",
    "diversify": "zooter",
    "reward": "zooter",
    "fit": "routers",
    "evaluate": "report",
    "calibrate": "routers",
    "route": "routers",
    "select": "selection",
    "dedicate": "dedicated",
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
        rows = [_parameter(parameter) for parameter in command.params]
        if not rows:
            continue
        parts.append("| | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
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
    members = {name: find("predictors", name) for name in names("predictors")}
    fields = {name: dataclasses.fields(member) for name, member in members.items()}
    options = [
        "".join(f", `{f.name}={f.default}`" for f in fields[n] if f.name in settable(m))
        for n, m in members.items()
    ]
    _, rule, *rows = _family("predictors").splitlines()
    rows = [f"{row} {told[2:]} |" for row, told in zip(rows, options, strict=True)]
    return "\n".join(["| name | | options |", f"{rule}---|", *rows, ""])


def graders() -> str:
    return _family("graders")


def _family(family: str) -> str:
    rows = []
    for name in names(family):
        module = import_module(f"{FAMILIES[family]}.{name}")
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


PARTS = (commands, strategies, encoders, predictors, graders, rewards, metrics)
GENERATORS = {f.__name__: f for f in PARTS}


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
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda m: m[1] + GENERATORS[m[2]]() + m[3], text)
        if fresh != text and write:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            problems.append(f"{path.relative_to(ROOT)}: a generated part is stale: make docs")
        for target in LINK.findall(text):
            if not (path.parent / target).exists():
                problems.append(f"{path.relative_to(ROOT)}: the link to {target} leads nowhere")
    problems += _without_level()
    print("\n".join(problems) or "docs are in sync")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
