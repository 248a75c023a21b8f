"""Runs the Python of the documentation: every ```python block of README.md and docs/*.md.

The blocks of a page share their names and run in a temporary folder, which holds what
`routewright demo` makes: an outcome table OUTCOMES.parquet, routewright.yaml, the folder `router`
and figures.json of its evaluation. A gateway with that config answers at http://127.0.0.1:4100
(on another port, which is put in its place). A block that needs the outside world is marked in the
line before it:

    <!-- not run: it needs an OpenAI key -->

`python dev/run_docs.py [PAGE]...`; exit code 1 if a block fails, with its file and line. The blocks
of docs/tutorials/ are run by dev/run_tutorial.py, those of docs/python.md by the doctests.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType

from routewright import demo, evaluate, read
from routewright.router.router import Router

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
GATEWAY = "http://127.0.0.1:4100"


@dataclass(frozen=True)
class Block:
    """Some Python of a page, and the line of the page before its first."""

    page: Path
    line: int
    code: str
    reason: str | None  # why it is not run

    def run(self, names: dict[str, object]) -> str | None:
        """Runs it; what went wrong, with the page and line, or None. `await` is allowed."""
        code = "\n" * self.line + self.code
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                program = compile(code, str(self.page), "exec", FLAGS, dont_inherit=True)
                result = FunctionType(program, names)()
                if inspect.iscoroutine(result):
                    asyncio.run(result)
        except Exception as error:
            return f"{self.page}:{self._line(error)}: {type(error).__name__}: {error}"
        return None

    def _line(self, error: Exception) -> int:
        """Where it happened, as a line of the page."""
        if isinstance(error, SyntaxError) and error.filename == str(self.page):
            return error.lineno or self.line
        frames = traceback.extract_tb(error.__traceback__)
        return [f.lineno for f in frames if f.filename == str(self.page)][-1] or self.line


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(page, line, match["code"], match["reason"])


def example(folder: Path) -> None:
    """Fills a folder with what the pages speak of."""
    shutil.copytree(demo.example(), folder)
    (folder / "outcomes.parquet").rename(folder / "OUTCOMES.parquet")
    held_out = read(folder / "OUTCOMES.parquet", split="dev")
    figures = evaluate(Router.load(folder / "router"), held_out, replicates=20).to_json()
    (folder / "figures.json").write_text(json.dumps(figures))


def run(page: Path, whole: Path, folder: Path, url: str) -> list[str]:
    """Runs a page's blocks in a copy of the example; what went wrong."""
    shutil.copytree(whole, folder)
    names: dict[str, object] = {"__name__": page.stem}
    here, problems = Path.cwd(), []
    os.chdir(folder)
    try:
        for block in blocks(page):
            if block.reason is not None:
                print(f"{page.name}:{block.line}: not run: {block.reason}")
                continue
            problem = replace(block, code=block.code.replace(GATEWAY, url)).run(names)
            problems += [problem] if problem else []
    finally:
        os.chdir(here)
    return problems


def main(pages: list[Path]) -> int:
    problems = []
    with tempfile.TemporaryDirectory(prefix="routewright-docs-") as name:
        whole = Path(name) / "example"
        example(whole)
        with demo.gateway(demo.Folder(whole), 0) as (url, _):
            for number, page in enumerate(pages):
                problems += run(page, whole, Path(name) / str(number), url)
    here = f"{Path.cwd()}{os.sep}"
    print("\n".join(problems).replace(here, "") or "the Python of the docs runs")
    return 1 if problems else 0


if __name__ == "__main__":
    found = [Path(page).absolute() for page in sys.argv[1:]]
    sys.exit(main(found or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]))
