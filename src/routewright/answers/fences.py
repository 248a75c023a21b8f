"""Finds code fences in a text."""

from __future__ import annotations

FENCE = "```"


def fenced(text: str) -> list[str]:
    """The contents of code fences; the last one may be open.

    >>> fenced("Try ```python\\nx = 1\\n``` or ```\\ny = 2")
    ['x = 1\\n', 'y = 2']
    """
    contents = []
    opening = text.find(FENCE)
    while opening >= 0 and (line_end := text.find("\n", opening)) >= 0:
        closing = text.find(FENCE, line_end)
        contents.append(text[line_end + 1 : closing if closing >= 0 else len(text)])
        opening = text.find(FENCE, closing + len(FENCE)) if closing >= 0 else -1
    return contents
