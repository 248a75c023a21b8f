"""When two answers say the same: letters, numbers, short texts, code, prose."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routewright.answers.equivalence import group, guess, key, labels, same
from routewright.errors import BadInput
from routewright.prediction.encoders import build
from routewright.types import Query


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (c). ", "C"),
        ("The answer is (B).", "B"),
        ("**Answer:** D", "D"),
        ("B) because it is larger than A", "B"),
        ("(A) is too small and (C) too large, so the answer is (B)", "B"),
        ("The answer is (A). No, wait: the answer is (D).", "D"),
        (r"so we have \boxed{\text{E}}", "E"),
        ("It must be (F)", "F"),
        ("Answer: A", "A"),
        ("answer is a cat", None),
        ("A dog barked", None),
        ("I think so", None),
        ("I cannot answer this question.", None),
        ("", None),
        (None, None),
    ],
)
def test_a_letter_is_found_where_one_is_meant(text, letter):
    assert key("letter", text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("1,234,567.50", Fraction("1234567.5")),
        ("so he pays $1,250 in total.", 1250),
        ("50%", Fraction(1, 2)),
        ("3 1/2", Fraction(7, 2)),
        ("3½", Fraction(7, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        ("−7", -7),
        ("-$12", -12),
        ("1.5e-3", Fraction("0.0015")),
        ("5 + 3 = 8, so 8 boxes\n#### 1,008", 1008),
        ("The answer is 42 apples in 3 boxes", 42),
        (r"\boxed{72 \text{ dollars}} of 100", 72),
        ("1\u202f000", 1000),
        ("７", 7),
        ("007", 7),
        ("3,5", None),  # a list, or a decimal comma
        ("2:30", None),
        ("1/0", None),
        ("GPT-4", None),
        ("5-3", None),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("no idea", None),
    ],
)
def test_a_number_is_read_exactly_or_not_at_all(text, number):
    assert key("number", text) == number


def test_numbers_written_in_many_ways_are_one_number():
    rng = np.random.default_rng(0)
    for _ in range(300):
        value = Fraction(int(rng.integers(-(10**7), 10**7)), int(rng.choice([1, 2, 4, 5, 8, 100])))
        decimal = f"{float(value):,.3f}"
        forms = [
            decimal,
            decimal.replace(",", ""),
            f"{value.numerator}/{value.denominator}",
            f"The answer is {decimal}.",
            f"#### {decimal}",
            rf"\boxed{{{decimal.replace(',', '')}}}",
            f"{float(value * 100):.3f}%",
            f"{float(value * 100):.3f} percent",
        ]
        assert {key("number", form) for form in forms} == {value}, forms


def test_formulas_are_equal_where_their_values_are():
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    assert same("number", r"\boxed{3\sqrt{2}}", r"so it is $\sqrt{18}$")
    assert not same("number", r"\boxed{3\sqrt{2}}", r"\boxed{2\sqrt{3}}")
    assert same("number", r"\boxed{2^{10}}", "1024")
    assert key("number", r"\boxed{9^{9^{9^{9}}}}") is None, "nobody waits for that"


def test_somebody_who_left_the_percent_sign_out_agrees():
    assert group("number", ["25%", "25", "30%"]) == (0, 0, 1)
    assert group("number", ["25%", "25", "0.25"]) == (0, 1, 0)


def test_short_texts_are_compared_as_squad_does():
    assert same("text", "The Beatles!", "the  beatles")
    assert not same("text", "Paris", "Rome")
    assert same("text", "Paris", "?!") is None
    assert key("text", "The") is None


def test_what_cannot_be_read_agrees_with_nobody():
    assert group("letter", ["B", "no idea", "no idea", None, "(B)"]) == (0, -1, -1, -1, 0)
    assert same("number", "none", "none") is None


def test_code_is_compared_by_what_its_tests_said():
    programs = ["def f(): return 1", "f = lambda: 1", "def f(): pass", "def f(:"]
    ran = [(True, True), [True, True], (False, True), None]
    assert group("code", programs, tests=ran) == (0, 0, 1, -1)
    assert group("code", programs) == (-1, -1, -1, -1), "without tests nothing is known"


def test_prose_is_compared_by_an_encoder_with_a_threshold():
    texts = [
        "The cat sat down on the mat because it was tired of running all day.",
        "Because it was tired of running all day, the cat sat down on the mat.",
        "Interest rates rose last quarter, and bond prices fell as a consequence of that.",
        None,
    ]
    encoder = build("lexical").fit([Query.of(text or "") for text in texts])
    assert group("similar", texts, encoder=encoder) == (0, 0, 1, -1)
    assert group("similar", texts, encoder=encoder, threshold=1.1) == (0, 1, 2, -1)
    assert group("similar", texts) == (0, 1, 2, -1), "without an encoder only equal texts agree"


def test_the_kind_is_guessed_from_what_most_answers_look_like():
    assert guess(["B", "(C)", "I am not sure"]) == "letter"
    assert guess(["#### 7", "The answer is 8.", "no idea"]) == "number"
    assert guess(["Paris", "Rome, Italy"]) == "text"
    assert guess(["```python\nx = 1\n```", "Here:\n```\nx = 1\n```"]) == "code"
    prose = "In 1945 the war ended, and 80 years later people still write books about it all."
    assert guess([prose, prose.upper()]) == "similar", "a year in prose is not its answer"
    assert guess([]) == "similar"
    assert same("auto", "(B)", "The answer is B.")
    assert same("auto", "12", "#### 12.0")


@pytest.mark.parametrize("kind", ["letter", "number", "text", "calls", "auto"])
def test_a_table_is_labelled_as_its_rows_are_grouped(kind):
    rng = np.random.default_rng(1)
    said = [
        "B",
        "(b)",
        "C",
        "12",
        "12.0",
        "25%",
        "25",
        "1/4",
        "f(a=1)",
        "[f(a=1.0)]",
        "Paris",
        "paris.",
        "",
        None,
        "hm?",
    ]
    table = rng.choice(np.array(said, dtype=object), (200, 5))
    found = labels(kind, table)
    for row, answers in zip(found.tolist(), table.tolist(), strict=True):
        grouped = group(kind, answers)
        assert [a == b for a in row for b in row] == [a == b for a in grouped for b in grouped]
        assert [a < 0 for a in row] == [a < 0 for a in grouped]


def test_agreement_does_not_depend_on_the_order_of_the_answers():
    rng = np.random.default_rng(2)
    said = np.array(["7", "7.0", "700%", "700", "8", "hm", None, "The answer is 7"], dtype=object)
    for _ in range(100):
        texts, order = rng.choice(said, 6), rng.permutation(6)
        first = np.array(group("number", texts.tolist()))[order]
        second = np.array(group("number", texts[order].tolist()))
        assert ((first[:, None] == first) == (second[:, None] == second)).all()


def test_an_unknown_kind_names_those_that_exist():
    with pytest.raises(BadInput, match="'word': choose auto, letter, number, text, calls, code"):
        group("word", ["a", "b"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no process")
def test_reading_a_long_answer_is_work_that_grows_with_its_length_alone():
    """A process that may work for a minute reads what would keep it busy for hours if its work grew
    with the square of the length."""
    script = """
import resource
from routewright.answers.equivalence import key

resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for part in ("1,", "\\\\boxed{", "answer is ", "$", " ", "(", "1/", "the "):
    for length in (15_000, 1_500_000):
        for kind in ("letter", "number", "text", "calls", "auto"):
            key(kind, part * (length // len(part)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "it worked for more than a minute"


@pytest.mark.parametrize("formula", [r"x = 12/4 = 3", r"\frac{1}{0} = ", r"\int x"])
def test_no_formula_breaks_its_reader(formula):
    """With math-verify it may be read or not; either way it is an answer."""
    assert same("number", rf"\boxed{{{formula}}}", "4") in (None, False)


PIECES = st.sampled_from(
    [
        *(r"\boxed{", "}", "{", "$", "=", "<", "x", "1/2", "12", "0", "-", "+", "^", "_", "%", ","),
        *(r"\frac{1}{2}", r"\sqrt", r"\text{ or }", r"\pm", r"\le", r"\infty", r"\int", r"\begin"),
        *("[1, 2)", "(B)", "answer is ", "####", "|", "!", " ", "\n", "\\\\", "&", "\ud800", "\0"),
    ]
)
FORMULAS = st.lists(PIECES, max_size=9).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=80), FORMULAS, FORMULAS.map(lambda f: rf"\boxed{{{f}}}")))
def test_no_text_breaks_a_reader(text):
    table = np.array([[text, text + "7", "7"]], dtype=object)
    for kind in ("auto", "letter", "number", "text", "code", "similar"):
        one = key(kind, text)
        assert one == key(kind, text)
        assert labels(kind, table).shape == (1, 3)
        assert len(group(kind, table[0].tolist())) == 3
