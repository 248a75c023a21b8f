"""Decides whether two answers are equivalent, by kind: letter, number, short text, tool calls,
code, prose.

`key` gives the canonical form of an answer, `group` labels the answers to one query, and `labels`
those to many queries. An answer that cannot be read has the key None and the label −1: it agrees
with no answer, not even with another unreadable one.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Hashable, Sequence
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from routewright import apart
from routewright.answers import calls
from routewright.data.unicode import nfkc
from routewright.errors import BadInput
from routewright.types import Array, Indices, Query

if TYPE_CHECKING:
    from routewright.prediction.encoders import Encoder

Kind = Literal["auto", "letter", "number", "text", "calls", "code", "similar"]
KEYED: tuple[Kind, ...] = (
    "letter",
    "number",
    "text",
    "calls",
)  # kinds whose answers have a canonical form
UNKNOWN = -1  # the label of an answer that cannot be read
SIMILAR = 0.8  # cosine from which two texts count as equivalent
FEW_WORDS = 8  # an answer of at most this many words is a short text, not prose
CACHED = 1 << 12  # answers whose form each reader remembers; all of MAX_LENGTH take 240 MB
MAX_LENGTH = 20_000  # characters at the end of an answer that are read
MAX_DIGITS = 300  # a number with more digits is unreadable
MAX_FORMULA = 2_000  # characters; a longer formula is unreadable


def key(kind: Kind, text: str | None) -> Hashable | None:
    """The canonical form of an answer, equal for equivalent answers; None if it cannot be read.

    `code` and `similar` have no such form: `group` compares their answers by tests or vectors.
    Raises BadInput if there is no such kind.

    >>> key("letter", "The answer is (B)."), key("number", "so it costs $1,250.00")
    ('B', Fraction(1250, 1))
    >>> key("number", "50%") == key("number", "1/2"), key("text", "The Beatles!")
    (True, 'beatles')
    """
    if not text:
        return None
    kind = guess([text]) if _check_kind(kind) == "auto" else kind
    return _READERS[kind](text[-MAX_LENGTH:]) if kind in KEYED else None


def same(kind: Kind, one: str | None, other: str | None, **options: Any) -> bool | None:
    """Whether two answers are equivalent; None if either is unreadable. `options` are `group`'s."""
    first, second = group(kind, (one, other), **options)
    return None if UNKNOWN in (first, second) else first == second


def group(
    kind: Kind,
    texts: Sequence[str | None],
    *,
    tests: Sequence[Sequence[bool] | None] | None = None,
    encoder: Encoder | None = None,
    threshold: float = SIMILAR,
) -> tuple[int, ...]:
    """A label for each answer to one query, 0, 1, … in order of appearance; −1 if unreadable.

    `code` needs `tests`, the test results of each answer (None: it could not be run). `similar`
    needs a fitted `encoder`; without one, only texts that are equal as short texts agree.

    >>> group("number", ["1/2", "0.50", "2", "no idea", None])
    (0, 0, 1, -1, -1)
    """
    if _check_kind(kind) == "auto":
        kind = guess(texts)
    if kind == "code":
        results = tests or [None] * len(texts)
        return _label_keys([None if result is None else tuple(result) for result in results])
    if kind == "similar" and encoder is not None:
        return _similar(texts, encoder, threshold)
    table = np.array([list(texts)], dtype=object)
    row = labels("text" if kind == "similar" else kind, table)[0]
    return _label_keys([None if label < 0 else int(label) for label in row])


def labels(kind: Kind, answers: np.ndarray[Any, np.dtype[Any]]) -> Indices:
    """Labels (n, e) of a table of answers, str or None; equal labels in a row mean equivalence.

    This is `group` for every row, for the kinds that have a canonical form. `auto` guesses the
    kind of each row; rows of code or prose get −1.
    """
    positions: dict[Any, int] = {}
    flat = [positions.setdefault(text, len(positions)) for text in answers.ravel().tolist()]
    texts, cell = list(positions), np.array(flat, dtype=np.intp).reshape(answers.shape)
    if _check_kind(kind) == "number":
        return _numbers(texts, cell)
    if kind != "auto":
        return _labels_of(kind, texts)[cell]
    kinds = _kinds(texts, cell)
    table = np.full(answers.shape, UNKNOWN)
    for keyed in KEYED:
        rows = kinds == keyed
        if rows.any():
            table[rows] = labels(keyed, answers[rows])
    return table


def guess(texts: Sequence[str | None]) -> Kind:
    """The kind of the answers to one query: the kind of more than half of them, else `similar`.

    >>> guess(["B", "(C) because"]), guess(["#### 7", "The answer is 8."]), guess(["Paris", "Rome"])
    ('letter', 'number', 'text')
    """
    kind: Kind = _kinds(texts, np.arange(len(texts), dtype=np.intp)[None])[0]
    return kind


def _kinds(texts: Sequence[str | None], cell: Indices) -> np.ndarray[Any, np.dtype[Any]]:
    """The kind of each row, (n,); `cell` (n, e) are positions in `texts`."""
    filled = np.array([bool(text and text.strip()) for text in texts], dtype=bool)
    kinds = np.full(len(cell), "similar", dtype=object)
    for kind, recognise in reversed(_RECOGNISERS.items()):
        matches = np.array(
            [bool(f) and recognise(text) for f, text in zip(filled, texts, strict=True)], bool
        )
        kinds[2 * matches[cell].sum(axis=1) > filled[cell].sum(axis=1)] = kind
    return kinds


def _labels_of(kind: Kind, texts: Sequence[str | None]) -> Indices:
    return np.array(_label_keys([key(kind, text) for text in texts]), dtype=np.intp)


def _label_keys(keys: Sequence[Hashable | None]) -> tuple[int, ...]:
    """Labels 0, 1, … for keys in order of appearance; −1 for None."""
    labels: dict[Hashable, int] = {}
    return tuple(UNKNOWN if k is None else labels.setdefault(k, len(labels)) for k in keys)


def _numbers(texts: Sequence[str | None], cell: Indices) -> Indices:
    """Labels of numbers (n, e): "25%" is 1/4, and also equals a 25 without the percent sign.

    It gets the label of that 25 only if no other answer in the row is 1/4.
    """
    keys = [key("number", text) for text in texts]
    labels = _label_keys(keys)
    of_key = dict(zip(keys, labels, strict=True))
    percent = [
        k is not None and _percent((text or "")[-MAX_LENGTH:])
        for text, k in zip(texts, keys, strict=True)
    ]
    table = np.array(labels, dtype=np.intp)[cell]
    if not any(percent):
        return table
    hundredfold = [
        of_key.get(k * 100, UNKNOWN) if p and isinstance(k, Fraction) else UNKNOWN
        for k, p in zip(keys, percent, strict=True)
    ]
    signed, plain = np.array(percent)[cell], np.array(hundredfold)[cell]
    for row in np.flatnonzero(signed.any(axis=1)):
        others = set(table[row][~signed[row]].tolist())
        for j in np.flatnonzero(signed[row]):
            if plain[row, j] in others - {UNKNOWN} and table[row, j] not in others:
                table[row, j] = plain[row, j]
    return table


def _similar(texts: Sequence[str | None], encoder: Encoder, threshold: float) -> tuple[int, ...]:
    """Each text joins the first group whose first text is near enough, or starts a new group."""
    filled = [i for i, text in enumerate(texts) if text and text.strip()]
    x = encoder.encode([Query.of(texts[i] or "") for i in filled])
    unit: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    labels, leaders = [UNKNOWN] * len(texts), list[int]()
    for place, i in enumerate(filled):
        matches = [g for g, leader in enumerate(leaders) if unit[leader] @ unit[place] >= threshold]
        labels[i] = matches[0] if matches else len(leaders)
        if not matches:
            leaders.append(place)
    return tuple(labels)


def _check_kind(kind: Kind) -> Kind:
    if kind not in get_args(Kind):
        raise BadInput(f"no kind of answer is called '{kind}': choose {', '.join(get_args(Kind))}")
    return kind


# --- multiple choice -----------------------------------------------------------------------

_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_MARKED = re.compile(  # "the answer is B", "Answer: (b)"; a lone A or I may be a word
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would\s+be|choice|option))?[\s:=*_\"'$]*"
    r"(?:\\boxed\{)?(?:\(([A-Za-z])\)|([B-HJ-Z])\b|([AI])(?=\s*(?:[.,:;*)\]\"'}]|$|\n)))",
    re.IGNORECASE,
)
_BOXED_LETTER = re.compile(
    r"\\boxed\{\s*+(?:\\(?:text|mathrm|textbf)\{\s*+)?\(?([A-Za-z])\)?\s*+\}"
)
_FIRST = re.compile(r"[\s*_\"']*([A-Z])\s*[).:\]]")
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")


@lru_cache(CACHED)
def _letter(text: str) -> str | None:
    if match := _ALONE.fullmatch(text.strip()):
        return str(match[1]).upper()
    for pattern in (_BOXED_LETTER, _MARKED):
        letters = [next(filter(None, m.groups())) for m in pattern.finditer(text)]
        letters = [letter for letter in letters if letter.isupper() or pattern is _BOXED_LETTER]
        if letters:
            return str(letters[-1]).upper()
    if match := _FIRST.match(text):
        return str(match[1])
    letters = _BRACKETED.findall(text)
    return str(letters[-1]) if letters else None


# --- numbers -------------------------------------------------------------------------------

_DIGIT = re.compile(r"\d")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_HARD_SPACE = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3})")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_NUMBER = re.compile(
    r"(?<![\w.,:/^])(?<![\w.)]-)(?P<sign>[-+]\s?)?[$€£¥]?\s?(?P<sign2>-)?"
    r"(?:(?P<whole>\d+)\s+(?=\d+\s?/\s?\d))?(?P<top>\d[\d,_']*(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<power>[-+]?\d+)(?!\w))?(?:\s?/\s?(?P<bottom>\d+(?:\.\d+)?))?"
    r"(?P<percent>\s?(?:\\?%|per\s?cent\b))?(?!-?[\d:/^]|[eE][-+]?\d)"
)
_THOUSANDS = re.compile(r"\d{1,3}(?:([,_'])\d{3})(?:\1\d{3})*(?:\.\d+)?")
_ANSWER = re.compile(r"(?:####|\banswer\b\s*(?:is|:|=)?)\s*", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:[dt]?frac|sqrt|pi|times|cdot|log|ln)\b")
_DOLLARS = re.compile(r"\$([^$]+)\$")
_TOWER = re.compile(r"\^\s*\{?[^}\s]*(?:\^|\d{3})|!|\\binom")  # evaluation would never end


@lru_cache(CACHED)
def _number(text: str) -> Hashable | None:
    """The exact number that a text marks as its answer, or else ends with; None if unreadable.

    Formulas need math-verify (`pip install routewright[maths]`). One that takes more than 2 s of
    processor time to evaluate, or has a value of more digits than MAX_DIGITS, is unreadable.
    """
    mark, part = _answer_part(_plain(text))
    numbers = list(_NUMBER.finditer(part))
    if mark == "box" and not (len(numbers) == 1 and _is_alone(numbers[0], part)):
        return _formula(part)
    if formulas := [inner for inner in _DOLLARS.findall(part) if _COMMAND.search(inner)]:
        return _formula(formulas[-1])
    if _COMMAND.search(part):
        return _formula(part)
    return _value(numbers[0 if mark else -1]) if numbers else None


def _plain(text: str) -> str:
    """The text with ordinary digits, signs and fractions."""
    text = _HARD_SPACE.sub("_", text)
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    text = nfkc(text).replace("\u2044", "/").replace("\u2212", "-")
    text = text.replace("\\$", "$").replace("\\,", "").replace("\\!", "").replace("{,}", ",")
    return _FRAC.sub(lambda m: f" {m[1]}/{m[2]} ", text)


def _answer_part(text: str) -> tuple[str, str]:
    """The kind of mark before the answer, and the text after it; all of the text without a mark.

    The kinds are "box", "words" (such as "####" or "the answer is") and "" (none).
    """
    box = text.rfind("\\boxed{")
    if box >= 0:
        return "box", _braced(text[box + len("\\boxed") :])
    last_digit = max((m.start() for m in _DIGIT.finditer(text)), default=-1)
    marks = [m.end() for m in _ANSWER.finditer(text) if m.end() <= last_digit]
    return ("words", text[marks[-1] :]) if marks else ("", text)


def _braced(text: str) -> str:
    """The text in the first braces: `{a{b}c} d` ▶ `a{b}c`."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return text[1:i]
    return text[1:]


def _is_alone(match: re.Match[str], text: str) -> bool:
    rest = text[: match.start()] + text[match.end() :]
    return not re.sub(r"\\(?:text|mathrm)\{[^}]{0,200}+\}|[\s$.(){}\\]", "", rest)


def _value(match: re.Match[str]) -> Fraction | None:
    top, power = match["top"], int((match["power"] or "0")[:6])
    if re.search(r"[^\d.]", top) and not _THOUSANDS.fullmatch(top.rstrip(",'_")):
        return None  # 3,5 may be a list or a decimal comma
    digits = re.sub(r"[^\d.]", "", top)
    sizes = [len(digits), abs(power), len(match["bottom"] or ""), len(match["whole"] or "")]
    if max(sizes) > MAX_DIGITS:
        return None
    value = Fraction(digits) * Fraction(10) ** power
    if match["bottom"] is not None:
        denominator = Fraction(match["bottom"])
        if not denominator:
            return None
        value /= denominator
    value += int(match["whole"] or 0)
    if "-" in (match["sign"] or "") or match["sign2"]:
        value = -value
    return value / 100 if match["percent"] else value


def numbers(text: str) -> list[tuple[Fraction, int, int]]:
    """The readable numbers of a text with ASCII digits, each with its start and end.

    >>> numbers("from 1,250 to 50%")
    [(Fraction(1250, 1), 5, 10), (Fraction(1, 2), 14, 17)]
    """
    values = ((_value(match), match.start(), match.end()) for match in _NUMBER.finditer(text))
    return [(value, start, end) for value, start, end in values if value is not None]


def _percent(text: str) -> bool:
    mark, part = _answer_part(_plain(text))
    numbers = list(_NUMBER.finditer(part))
    return bool(numbers and numbers[0 if mark else -1]["percent"])


def _formula(text: str) -> Hashable | None:
    if len(text) > MAX_FORMULA or _TOWER.search(text) or find_spec("math_verify") is None:
        return None
    try:
        value = apart.call("routewright.answers._formula:read", text)
    except (ValueError, apart.TooLong):  # SymPy raises errors of any kind
        return None
    if not isinstance(value, list):
        return None if value is None else str(value)
    if max(map(len, value)) > MAX_DIGITS:
        return None
    return Fraction(int(value[0]), int(value[1]))


# --- short texts ---------------------------------------------------------------------------

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(CACHED)
def _text(text: str) -> str | None:
    """Lower case without punctuation, articles and extra spaces, as SQuAD's evaluation compares
    answers (arXiv 1606.05250, section 6)."""
    plain = nfkc(text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", plain).split()) or None


def _is_code(text: str) -> bool:
    return "```" in text


def _is_letter(text: str) -> bool:
    return _letter(text[-MAX_LENGTH:]) is not None


def _is_number(text: str) -> bool:
    """Whether the text has a marked number, or one with few words around it."""
    text = text[-MAX_LENGTH:]
    mark, _ = _answer_part(_plain(text))
    return (bool(mark) or len(text.split()) <= FEW_WORDS) and _number(text) is not None


def _is_short_text(text: str) -> bool:
    return len(text.split()) <= FEW_WORDS and _text(text) is not None


_READERS = {
    "letter": _letter,
    "number": _number,
    "text": _text,
    "calls": lru_cache(CACHED)(calls.key),
}
_RECOGNISERS: dict[Kind, Any] = {  # the first one that matches counts
    "calls": calls.is_call,
    "code": _is_code,
    "letter": _is_letter,
    "number": _is_number,
    "text": _is_short_text,
}
