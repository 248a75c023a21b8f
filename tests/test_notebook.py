"""The notebook runs as it stands, and prints what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which `make test` installs")

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def outputs(notebook) -> list[list[str]]:
    """The kinds of what each cell of code gave, and the texts that it printed."""
    return [
        [output.get("text") or " ".join(sorted(output["data"])) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def words(text: str) -> str:
    return " ".join(NUMBER.sub("#", text).split())


def slack(number: str) -> float:
    """By how much another processor may differ: 15 in the last digit, and 2 of what is counted."""
    decimals = len(number.partition(".")[2])
    return 15 * 10.0**-decimals if decimals else 2.0


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_prints_what_it_shows(name, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.delenv("ROUTEWRIGHT_TABLE", raising=False)
    stored = nbformat.read(NOTEBOOKS / name, as_version=4)
    shown = outputs(stored)
    assert any(shown)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    ran = outputs(NotebookClient(stored, timeout=600, resources=resources).execute())
    for before, now in zip(shown, ran, strict=True):
        assert [words(text) for text in now] == [words(text) for text in before]
        for one, other in zip(now, before, strict=True):
            for number, shown_number in zip(*map(NUMBER.findall, (one, other)), strict=True):
                assert float(number) == pytest.approx(float(shown_number), abs=slack(shown_number))
