"""The options that a question lists: one reading for every feature that looks at them."""

from __future__ import annotations

from math import log1p

import numpy as np
import pytest

from routewright.answers import multiple_choice
from routewright.answers.observations import MOST_OPTIONS, About
from routewright.data.choices import parse, with_options
from routewright.prediction.encoders import surface
from routewright.types import Query


def seen(text: str) -> dict[str, float]:
    return dict(zip(surface.NAMES, surface.features(text), strict=True))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Which?\nA. seven\nB. green", ["seven", "green"]),
        ("A. seven\nB. green", ["seven", "green"]),  # on the first line
        ("Which?\n  (A) seven\n  (B) green\n", ["seven", "green"]),
        ("Which?\r\n\r\nA) seven\r\nB) green", ["seven", "green"]),
        ("Which?\nA:\tseven\nB:\tgreen", ["seven", "green"]),
        ("Which?\nA.\nseven\nB.\ngreen", ["seven", "green"]),  # below their letters
        ("Which?\nA. 0\nB.\nC. 2", ["0", "", "2"]),  # one is empty
        ("Which are true?\nI. It is.\nII. It is not.\nA. I\nB. II", ["I", "II"]),
        ("R. Crusoe has 2 goats.\nA. yes\nB. no", ["yes", "no"]),
        ("What is 1?\nA. 1\nB. 2\nC. 3\nWhat is 9?\nA. 8\nB. 9", ["8", "9"]),  # the last list
        ("What is 1?\nA. 1\nB. 2\nA: ", ["1", "2\nA:"]),  # no list begins there
        ("which?\na. seven\nb. green", ["seven", "green"]),  # in lower case
        ("Which?\n(a) seven\n(b) green", ["seven", "green"]),
        ("Which?\nA. one of:\na) x\nb) y\nB. none", ["one of:\na) x\nb) y", "none"]),
        ("Which?\nA. seven\nb. green", []),
        (with_options("Which?", [f"no. {n}" for n in range(26)]), None),
        ("Q: Is it A. or B. here?", []),
        ("Q: Who?\nA: ", []),
        ("Which of the two?\nA. one\n2) two", []),
        ("I. am\nJ. Smith", []),
        ("", []),
    ],
)
def test_every_feature_sees_the_same_options(text: str, options: list[str] | None):
    found = parse(text)[1]
    assert options is None or found == options
    count = 26 if options is None else len(options)
    assert (len(found), seen(text)["options"], seen(text)["has_options"]) == (
        count,
        count,
        count > 0,
    )
    assert About.of([Query.of(text)]).options.tolist() == [min(count, MOST_OPTIONS)]
    assert len(multiple_choice.table([Query.of(text)]).row) == count


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("Which?\nA. seven\nB. green", "Which?\n"),
        ("Which?\n\n \nA. seven\nB. green", "Which?\n"),  # blank lines go with the options
        ("Which?  \n  A. seven\nB. green", "Which?  \n"),
        ("\n\nA. seven\nB. green", ""),
        ("  A. seven\nB. green", ""),
        ("Which?\n\n", "Which?\n\n"),
    ],
)
def test_the_question_is_what_stands_before_its_options(text: str, stem: str):
    values = seen(text)
    assert values["stem"] == log1p(len(stem))
    assert values["choices"] == log1p(len(text) - len(stem))


LONG = ("\n", " ", "\n \t", "(", "A", "A.", "A. \n", "B. b\n", "1,", "7", "</a", "a.b ", "not ")


@pytest.mark.parametrize("length", [100_000, 1_000_000])
@pytest.mark.parametrize("part", LONG)
def test_long_texts_of_any_kind_are_read(part: str, length: int):
    """In one pass: a pattern that tried every pair of places would not come to an end here."""
    filler = part * (length // len(part))
    for text, options in ((f"{filler}\nA. yes\nB. no", ["yes", "no"]), (f"{filler}\nnone", [])):
        assert parse(text)[1] == options
        assert seen(text)["options"] == len(options)
        assert About.of([Query.of(text)]).options.tolist() == [len(options)]
        assert len(multiple_choice.table([Query.of(text)]).row) == len(options)


def test_a_router_keeps_the_features_that_it_was_fitted_on(tmp_path):
    """Those of the first version counted every line that looks like an option, and those of the
    second saw none in lower case."""
    text = "Who found it?\nI. Newton\nQ: why?\n"
    mean, deviation = np.zeros(len(surface.NAMES)), np.ones(len(surface.NAMES))
    arrays = {"mean": mean, "deviation": deviation}
    earlier = surface.Surface.load({}, arrays)
    present = surface.Surface.load(surface.Surface().options(), arrays)
    place = surface.NAMES.index("has_options")
    assert [e.encode([Query.of(text)])[0, place] for e in (earlier, present)] == [1.0, 0.0]
    again = surface.Surface.load(earlier.options(), arrays)
    assert again.encode([Query.of(text)])[0, place] == 1.0
    for version, has_options in ((2, 0.0), (surface.VERSION, 1.0)):
        one = surface.Surface.load({"version": version}, arrays)
        assert one.encode([Query.of("which?\na. seven\nb. green")])[0, place] == has_options
