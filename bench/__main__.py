"""Runs the benchmarks named on the command line, or all of them."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from rich.console import Console

HERE = Path(__file__).parent
NAMES = sorted(module.name for module in iter_modules([str(HERE)]) if module.name[0] != "_")


def main() -> None:
    wanted = sys.argv[1:] or NAMES
    if {"-h", "--help"} & {*wanted}:
        for name in NAMES:
            path = next(HERE.glob(f"{name}.py"), HERE / name / "__init__.py")
            told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            print(f"{name:12}{(told or '').splitlines()[0]}")
        return
    if unknown := [name for name in wanted if name not in NAMES]:
        sys.exit(f"no benchmark {', '.join(unknown)}: choose among {', '.join(NAMES)}")
    for name in wanted:
        Console().rule(name)
        import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
