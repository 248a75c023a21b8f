"""Runs the Python of the documentation and checks its configs: README.md and the pages of docs/.

Every ```python block is run. A ```yaml block whose first line is a comment with a file's name, such
as `# laptop.yaml`, is a whole config: it becomes that file, and must pass `routewright check`.
Its variables are set, to any text.

The blocks of a page share their names and run in a temporary folder, which holds what
`routewright demo` makes: an outcome table OUTCOMES.parquet, routewright.yaml, the folder `router`
and figures.json of its evaluation. A gateway with that config answers at http://127.0.0.1:4100
(on another port, which is put in its place). A block that needs the outside world is marked in the
line before it:

    <!-- not run: it needs an OpenAI key -->

`python dev/run_docs.py [PAGE]...`; exit code 1 if a block fails, with its file and line. The blocks
of docs/tutorials/ are run by dev/run_tutorial.py, those of docs/python.md by the doctests, and the
tests run the clients of docs/clients/.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
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

from routewright import config, demo, evaluate, read
from routewright.router.router import Router

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?```(?P<language>python|yaml)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
CONFIG = re.compile(r"# (?P<file>[\w-]+\.yaml)\n")
VARIABLE = re.compile(r"\$\{(\w+)\}")
NOT_HERE = ("clients", "tutorials")  # folders of docs/ with runners of their own
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
GATEWAY = "http://127.0.0.1:4100"


@dataclass(frozen=True)
class Block:
    """Some Python of a page, or a config, and the line of the page before its first."""

    page: Path
    line: int
    code: str
    reason: str | None  # why it is not run
    file: str | None  # of a config: its name

    def run(self, names: dict[str, object]) -> str | None:
        """Runs or checks it; what went wrong, with the page and line, or None."""
        return self._check(Path(self.file)) if self.file else self._execute(names)

    def _check(self, path: Path) -> str | None:
        path.write_text(self.code, encoding="utf-8")
        for name in VARIABLE.findall(self.code):
            os.environ.setdefault(name, "none")
        lines = [
            f"{self.page}:{self.line + (mistake.line or 1)}: {mistake.text(path)}"
            for mistake in config.examine(path).mistakes
        ]
        return "\n".join(lines) or None

    def _execute(self, names: dict[str, object]) -> str | None:
        """`await` is allowed."""
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
        name = CONFIG.match(match["code"])
        file = name["file"] if name and match["language"] == "yaml" else None
        if file or match["language"] == "python":
            yield Block(page, line, match["code"], match["reason"], file)


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
    names: dict[str, object] = {"__name__": page.stem, "__builtins__": builtins}
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


def pages() -> list[Path]:
    """README.md, and the pages of docs/ that nothing else runs."""
    docs = ROOT / "docs"
    every = sorted(docs.rglob("*.md"))
    return [ROOT / "README.md", *(p for p in every if p.relative_to(docs).parts[0] not in NOT_HERE)]


def main(pages: list[Path]) -> int:
    problems = []
    with tempfile.TemporaryDirectory(prefix="routewright-docs-") as name:
        whole = Path(name) / "example"
        example(whole)
        with demo.gateway(demo.Folder(whole), 0) as (url, _):
            for number, page in enumerate(pages):
                problems += run(page, whole, Path(name) / str(number), url)
    here = f"{Path.cwd()}{os.sep}"
    print("\n".join(problems).replace(here, "") or "the docs run")
    return 1 if problems else 0


if __name__ == "__main__":
    found = [Path(page).absolute() for page in sys.argv[1:]]
    sys.exit(main(found or pages()))
