"""Whatever an expert or a client writes is read or refused: no reader raises anything else."""

import json
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routewright import prompts
from routewright.answers import calls, equivalence, multiple_choice, reading, votes
from routewright.answers.evidence import Evidence
from routewright.answers.observations import About, agreement
from routewright.data.queries import Item
from routewright.gateway import body
from routewright.gateway.errors import BadRequest
from routewright.grading import graders
from routewright.grading.graders import code, judge, pairwise
from routewright.interview import selfplay, tagging
from routewright.prediction.encoders.lexical import Lexical
from routewright.prediction.encoders.surface import Surface
from routewright.types import Answer, Ask, Query

DEEP = 100_000
HOSTILE = [
    "",
    "\x00",
    "\ud800",
    "\udc00\ud800 \\boxed{\ud83d}",
    "9^9^9^9",
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{10^{ 10^{ 10 } }}",
    r"\boxed{\exp(\exp(\exp(99)))}",
    r"\boxed{((99^{99})^{99})^{99}}",
    r"\boxed{x = 12/4 = 3}",
    r"\boxed{\frac{1}{0}}",
    r"\boxed{\frac{" * 400,
    r"$\log 0$, $\sqrt{-1}$ and $\frac{0}{0}$",
    "1e999999999 and -1e-999999999",
    "9" * 5000,
    "1" + ",000" * 5000,
    "." + "9" * 5000 + "e-5000",
    "NaN, Infinity, -inf",
    "1/0",
    "0/0 %",
    "½⁄⅞ ٣٫٥ ᠑᠒",
    "[" * DEEP,
    "{" * DEEP,
    "(" * DEEP + "A" + ")" * DEEP,
    '{"a":' * DEEP,
    r"\boxed{" * DEEP,
    "Rating: " + "9" * 5000,
    "Rating: ٧/10",
    "Better: neıther",
    "yeſ, correct ıncorrect",
    "```json\n" + "[" * DEEP + "\n```",
    "a" + "\u0300\u0316" * 10_000,
    "The answer is (K).",
    "A. " * 1000,
]
TOKENS = r"\boxed{ \frac{ \sqrt{ \text{ \pi \cdot \log \binom".split()
TOKENS += "{ } ( ) [ ] ^ _ ! $ % & = + - / * , . :".split()
TOKENS += [
    "x",
    "A",
    "(B)",
    "0",
    "7",
    "12",
    "1,250.00",
    "1e9",
    "-",
    "\n",
    " ",
    "the answer is ",
    "#### ",
]
TOKENS += [
    "½",
    "²",
    "٣",
    "−",
    "\u00a0",
    "\u0301",
    "\ud800",
    "\x00",
    "```",
    '"',
    "not ",
    "correct",
    "yes",
]
FORMULAS = st.lists(st.sampled_from(TOKENS), max_size=25).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda part: (
        st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=5), part, max_size=4)
    ),
    max_leaves=15,
).map(json.dumps)
TEXTS = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=60) | FORMULAS | JSON

QUERIES = [Query.of("What is 2 + 2?\nA. 3\nB. 4"), Query.of("Name a river.")]
ITEM = Item(
    QUERIES[0],
    reference="B",
    facts={"choices": ["3", "4"], "schema": {"type": "object", "maxProperties": 3}},
)
ENCODERS = [Surface().fit(QUERIES), Lexical(8).fit(QUERIES)]


def table(text: str) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array([[text, "B", "4", None]], dtype=object)


def observed(text: str) -> Any:
    labels = equivalence.labels("auto", table(text))
    return agreement(labels, np.ones((1, 3), bool), About.of([Query.of(text)]))


READERS: dict[str, Callable[[str], Any]] = {
    **{
        f"key {kind}": lambda text, kind=kind: equivalence.key(kind, text)
        for kind in ("letter", "number", "text", "calls", "auto")
    },
    **{
        f"labels {kind}": lambda text, kind=kind: equivalence.labels(kind, table(text))
        for kind in ("auto", "number")
    },
    "group": lambda text: equivalence.group("auto", [text, text + "x", "4"]),
    "similar": lambda text: equivalence.group("similar", [text, "4"], encoder=ENCODERS[1]),
    "votes": lambda text: votes.labels("auto", table(text)),
    "evidence": lambda text: [
        Evidence(kind, np.array([0.0, 1.0])).read(table(text))
        for kind in ("letter", "number", "calls", "auto")
    ],
    "observations": observed,
    "options": lambda text: multiple_choice.table(
        [Query.of(f"Q\nA. {text}\nB. {text}1\nC. 1.2.3")]
    ),
    "right letters": lambda text: multiple_choice.letter_scores(table(text), np.ones((1, 4))),
    "encoders": lambda text: [encoder.encode([Query.of(text)]) for encoder in ENCODERS],
    "verdict": prompts.verdict,
    "confidence": lambda text: prompts.confidence(
        Answer("a", text, logprobs=(-math.inf, math.nan))
    ),
    "tags": prompts.tags,
    "tag": tagging.normalised,
    "verification": lambda text: prompts.verify(Query.of(text), Answer("a", text)),
    "questions": selfplay.texts,
    "rating": judge.parse_rating,
    "preference": pairwise.parse_preference,
    "fences": code.fenced,
    "deferral": lambda text: Ask("a", unless=("<DEFER>",)).mark_deferred(
        Answer("a", text, finish_reason="length")
    ),
    **{
        f"grader {name}": lambda text, name=name: graders.build(name).grade(ITEM, text)
        for name in (
            "exact",
            "normalised",
            "f1",
            "numeric",
            "numeric=0.1",
            "multiple_choice",
            "json_schema",
        )
    },
}


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_a_reader_reads_or_does_not_but_never_raises(reader, text):
    READERS[reader](text)


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives_hostile_text(reader):
    for text in HOSTILE:
        READERS[reader](text)


@given(st.lists(st.floats(), max_size=5))
def test_a_mean_log_probability_is_a_number_or_unknown(values):
    mean = Answer("a", logprobs=tuple(values)).logprob
    assert math.isnan(mean) or math.isfinite(mean)


# --- bodies --------------------------------------------------------------------------------

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -(10**30), 1e308, -1e308, 5e-324])
VALUES = (
    NUMBERS
    | st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=3)
)
NAMES = st.sampled_from(
    [*body.LIMITS, "model", "messages", "max_tokens", "n", "tools", "metadata", "x"]
)
FIELDS = st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=4), max_size=6)
MESSAGES = [{"role": "user", "content": "hi"}]


@settings(max_examples=300, deadline=None)
@given(fields=FIELDS, own=st.dictionaries(NAMES, VALUES, max_size=3), add=st.booleans())
def test_a_body_is_a_request_or_refused_by_name(fields, own, add):
    if add:
        fields = {"messages": MESSAGES, **fields, "routewright": own}

    def read() -> Query | BadRequest:
        try:
            return body.parse(body.loads(json.dumps(fields).encode()), "public").query
        except BadRequest as error:
            return error

    result = read()
    if isinstance(result, BadRequest):
        assert 400 <= result.status < 500
        assert len(str(result)) < 1000
    else:
        limits = (result.max_cost, result.min_quality, result.max_latency, result.price)
        assert all(limit is None or 0 <= limit <= 1e12 for limit in limits)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=40) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_are_json_or_refused(raw):
    with suppress(BadRequest):
        value = body.loads(raw)
        assert body.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("read", [reading.parses, calls.is_call])
def test_the_style_of_foreign_code_is_no_warning_of_ours(read):
    code = r"find(pattern='\d+')"  # Python warns of the unknown escape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(code)
