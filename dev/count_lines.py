"""Prints lines of code per package: without blank lines, comments and docstrings; and all lines."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

from routewright.data.text import columns

SOURCE = Path(__file__).parent.parent / "src" / "routewright"
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
SILENT |= {tokenize.ENCODING, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(text: str) -> int:
    """Lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def main() -> None:
    packages: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in sorted(SOURCE.rglob("*.py")):
        first, *rest = path.relative_to(SOURCE).parts
        text = path.read_text(encoding="utf-8")
        counts = (1, code_lines(text), len(text.splitlines()))
        for name in (f"{first}/" if rest else first.removesuffix(".py"), "together"):
            packages[name] = [a + b for a, b in zip(packages[name], counts, strict=True)]
    rows = sorted(packages.items(), key=lambda row: (row[0] == "together", -row[1][1]))
    cells = [[name, *(f"{count:,}" for count in counts)] for name, counts in rows]
    print(columns([["package", "files", "code", "lines"], *cells], lines=len(cells) + 1))


if __name__ == "__main__":
    main()
