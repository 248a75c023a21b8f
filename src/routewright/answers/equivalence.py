"""When do two answers say the same? By kind: a letter, a number, a short text, code, prose.

`key` gives an answer's canonical form, `group` sorts the answers to one query, `labels` those to
many. An answer that cannot be read has the key None and the label −1: it agrees with nobody, not
even with another one that cannot be read.
"""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from collections.abc import Hashable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from routewright.errors import BadInput
from routewright.types import Array, Indices, Query

if TYPE_CHECKING:
    from routewright.prediction.encoders import Encoder

Kind = Literal["auto", "letter", "number", "text", "code", "similar"]
KEYED: tuple[Kind, ...] = (
    "letter",
    "number",
    "text",
)  # kinds whose answers have a canonical form of their own
UNKNOWN = -1  # the label of an answer that cannot be read
SIMILAR = 0.8  # cosine from which two texts count as saying the same
FEW_WORDS = 8  # an answer of at most so many words is a short text, not prose
LONGEST = 20_000  # characters at an answer's end that are looked at
MOST_DIGITS = 300  # a longer number is not anybody's answer


def key(kind: Kind, text: str | None) -> Hashable | None:
    """What an answer says, in a form that is equal for answers that say the same; None if it
    cannot be read.

    `code` and `similar` have no such form: tests or vectors compare their answers, in `group`.

    >>> key("letter", "The answer is (B)."), key("number", "so it costs $1,250.00")
    ('B', Fraction(1250, 1))
    >>> key("number", "50%") == key("number", "1/2"), key("text", "The Beatles!")
    (True, 'beatles')
    """
    if not text:
        return None
    kind = guess([text]) if _checked(kind) == "auto" else kind
    return _READERS[kind](text[-LONGEST:]) if kind in KEYED else None


def same(kind: Kind, one: str | None, other: str | None, **how: Any) -> bool | None:
    """Whether two answers say the same; None if that cannot be told. `how` is as for `group`."""
    first, second = group(kind, (one, other), **how)
    return None if UNKNOWN in (first, second) else first == second


def group(
    kind: Kind,
    texts: Sequence[str | None],
    *,
    tests: Sequence[Sequence[bool] | None] | None = None,
    encoder: Encoder | None = None,
    threshold: float = SIMILAR,
) -> tuple[int, ...]:
    """A label per answer to one query, 0, 1, … in order of appearance; −1 where unreadable.

    `code` needs `tests`, what running each answer gave (None: it could not be run). `similar`
    needs a fitted `encoder`; without one only texts that are equal as short texts agree.

    >>> group("number", ["1/2", "0.50", "2", "no idea", None])
    (0, 0, 1, -1, -1)
    """
    if _checked(kind) == "auto":
        kind = guess(texts)
    if kind == "code":
        found = [None if ran is None else tuple(ran) for ran in tests or [None] * len(texts)]
        return _numbered(found)
    if kind == "similar" and encoder is not None:
        return _similar(texts, encoder, threshold)
    table = np.array([list(texts)], dtype=object)
    row = labels("text" if kind == "similar" else kind, table)[0]
    return _numbered([None if label < 0 else int(label) for label in row])


def labels(kind: Kind, answers: np.ndarray[Any, np.dtype[Any]]) -> Indices:
    """Labels of a table of answers (n, e), str or None: equal ones in a row say the same.

    The same as `group` row by row, for the kinds that have a canonical form; `auto` guesses
    each row's kind, and leaves rows of code or prose unread.
    """
    places: dict[Any, int] = {}
    flat = [places.setdefault(text, len(places)) for text in answers.ravel().tolist()]
    texts, cell = list(places), np.array(flat, dtype=np.intp).reshape(answers.shape)
    if _checked(kind) == "number":
        return _numbers(texts, cell)
    if kind != "auto":
        return _labels_of(kind, texts)[cell]
    kinds = _kinds(texts, cell)
    found = np.full(answers.shape, UNKNOWN)
    for one in KEYED:
        rows = kinds == one
        if rows.any():
            found[rows] = labels(one, answers[rows])
    return found


def guess(texts: Sequence[str | None]) -> Kind:
    """The kind of the answers to one query: what more than half of them look like.

    >>> guess(["B", "(C) because"]), guess(["#### 7", "The answer is 8."]), guess(["Paris", "Rome"])
    ('letter', 'number', 'text')
    """
    kind: Kind = _kinds(texts, np.arange(len(texts), dtype=np.intp)[None])[0]
    return kind


def _kinds(texts: Sequence[str | None], cell: Indices) -> np.ndarray[Any, np.dtype[Any]]:
    """The kind of each row, (n,); `cell` (n, e) are places in `texts`."""
    said = np.array([bool(text and text.strip()) for text in texts], dtype=bool)
    kinds = np.full(len(cell), "similar", dtype=object)
    for kind, looks in reversed(_LOOKS.items()):
        like = np.array(
            [bool(s) and looks(text) for s, text in zip(said, texts, strict=True)], bool
        )
        kinds[2 * like[cell].sum(axis=1) > said[cell].sum(axis=1)] = kind
    return kinds


def _labels_of(kind: Kind, texts: Sequence[str | None]) -> Indices:
    return np.array(_numbered([key(kind, text) for text in texts]), dtype=np.intp)


def _numbered(keys: Sequence[Hashable | None]) -> tuple[int, ...]:
    """0, 1, … for keys in order of appearance, −1 for None."""
    seen: dict[Hashable, int] = {}
    return tuple(UNKNOWN if k is None else seen.setdefault(k, len(seen)) for k in keys)


def _numbers(texts: Sequence[str | None], cell: Indices) -> Indices:
    """Labels of numbers (n, e): "25%" is 1/4, and also the 25 of somebody who left the sign out.

    It joins that 25 where nobody else in its row says 1/4.
    """
    keys = [key("number", text) for text in texts]
    numbered = _numbered(keys)
    of_key = dict(zip(keys, numbered, strict=True))
    percent = [k is not None and _percent(text or "") for text, k in zip(texts, keys, strict=True)]
    found = np.array(numbered, dtype=np.intp)[cell]
    if not any(percent):
        return found
    hundredfold = [
        of_key.get(k * 100, UNKNOWN) if p and isinstance(k, Fraction) else UNKNOWN
        for k, p in zip(keys, percent, strict=True)
    ]
    signed, plain = np.array(percent)[cell], np.array(hundredfold)[cell]
    for row in np.flatnonzero(signed.any(axis=1)):
        others = set(found[row][~signed[row]].tolist())
        for j in np.flatnonzero(signed[row]):
            if plain[row, j] in others - {UNKNOWN} and found[row, j] not in others:
                found[row, j] = plain[row, j]
    return found


def _similar(texts: Sequence[str | None], encoder: Encoder, threshold: float) -> tuple[int, ...]:
    """Each text joins the first one before it, in its group's place, that is near enough."""
    known = [i for i, text in enumerate(texts) if text and text.strip()]
    x = encoder.encode([Query.of(texts[i] or "") for i in known])
    unit: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    found, leaders = [UNKNOWN] * len(texts), list[int]()
    for place, i in enumerate(known):
        near = [g for g, leader in enumerate(leaders) if unit[leader] @ unit[place] >= threshold]
        found[i] = near[0] if near else len(leaders)
        if not near:
            leaders.append(place)
    return tuple(found)


def _checked(kind: Kind) -> Kind:
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
_BOXED_LETTER = re.compile(r"\\boxed\{\s*(?:\\(?:text|mathrm|textbf)\{)?\s*\(?([A-Za-z])\)?\s*\}")
_FIRST = re.compile(r"[\s*_\"']*([A-Z])\s*[).:\]]")
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")


@lru_cache(maxsize=1 << 14)
def _letter(text: str) -> str | None:
    if alone := _ALONE.fullmatch(text.strip()):
        return str(alone[1]).upper()
    for pattern in (_BOXED_LETTER, _MARKED):
        found = [next(filter(None, m.groups())) for m in pattern.finditer(text)]
        found = [letter for letter in found if letter.isupper() or pattern is _BOXED_LETTER]
        if found:
            return str(found[-1]).upper()
    if first := _FIRST.match(text):
        return str(first[1])
    bracketed = _BRACKETED.findall(text)
    return str(bracketed[-1]) if bracketed else None


# --- numbers -------------------------------------------------------------------------------

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
_TOWER = re.compile(r"\^\s*\{?[^}\s]*(?:\^|\d{3})|!|\\binom")  # would take for ever to work out


@lru_cache(maxsize=1 << 14)
def _number(text: str) -> Hashable | None:
    """The number that an answer ends with, or the one it marks as its answer, exactly.

    Formulas are read by math-verify where it is installed (`pip install routewright[maths]`).
    """
    mark, part = _marked(_plain(text))
    found = list(_NUMBER.finditer(part))
    if mark == "box" and not (len(found) == 1 and _nothing_but(found[0], part)):
        return _formula(part)
    if formulas := [inner for inner in _DOLLARS.findall(part) if _COMMAND.search(inner)]:
        return _formula(formulas[-1])
    if _COMMAND.search(part):
        return _formula(part)
    return _value(found[0 if mark else -1]) if found else None


def _plain(text: str) -> str:
    """Ordinary digits, signs and fractions."""
    text = _HARD_SPACE.sub("_", text)
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-")
    text = text.replace("\\$", "$").replace("\\,", "").replace("\\!", "").replace("{,}", ",")
    return _FRAC.sub(lambda m: f" {m[1]}/{m[2]} ", text)


def _marked(text: str) -> tuple[str, str]:
    """What marks the answer ("box", "words" such as "####" or "the answer is", or nothing), and
    the text that it marks: all of it where nothing does."""
    box = text.rfind("\\boxed{")
    if box >= 0:
        return "box", _braced(text[box + len("\\boxed") :])
    marks = [m.end() for m in _ANSWER.finditer(text) if re.search(r"\d", text[m.end() :])]
    return ("words", text[marks[-1] :]) if marks else ("", text)


def _braced(text: str) -> str:
    """`{a{b}c} d` ▶ `a{b}c`."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return text[1:i]
    return text[1:]


def _nothing_but(found: re.Match[str], text: str) -> bool:
    rest = text[: found.start()] + text[found.end() :]
    return not re.sub(r"\\(?:text|mathrm)\{[^}]*\}|[\s$.(){}\\]", "", rest)


def _value(found: re.Match[str]) -> Fraction | None:
    top, power = found["top"], int((found["power"] or "0")[:6])
    if re.search(r"[^\d.]", top) and not _THOUSANDS.fullmatch(top.rstrip(",'_")):
        return None  # 3,5 may be a list or a decimal comma
    digits = re.sub(r"[^\d.]", "", top)
    sizes = [len(digits), abs(power), len(found["bottom"] or ""), len(found["whole"] or "")]
    if max(sizes) > MOST_DIGITS:
        return None
    value = Fraction(digits) * Fraction(10) ** power
    if found["bottom"] is not None:
        below = Fraction(found["bottom"])
        if not below:
            return None
        value /= below
    value += int(found["whole"] or 0)
    if "-" in (found["sign"] or "") or found["sign2"]:
        value = -value
    return value / 100 if found["percent"] else value


def _percent(text: str) -> bool:
    mark, part = _marked(_plain(text))
    found = list(_NUMBER.finditer(part))
    return bool(found and found[0 if mark else -1]["percent"])


def _formula(text: str) -> Hashable | None:
    if _TOWER.search(text):
        return None
    try:
        from math_verify import parse
    except ImportError:
        return None
    # Its timeout works by signals, which only the main thread may set; towers are kept out. That
    # there is none it says every time.
    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
    found = parse(f"${text.strip()}$", parsing_timeout=None, raise_on_error=False)
    if not found or isinstance(found[0], str):
        return None
    value = found[0].doit() if hasattr(found[0], "doit") else found[0]
    if getattr(value, "is_Rational", False):
        return Fraction(int(value.p), int(value.q))
    return str(value.evalf(12)) if hasattr(value, "evalf") else str(value)


# --- short texts ---------------------------------------------------------------------------

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=1 << 14)
def _text(text: str) -> str | None:
    """Lower case without punctuation, articles and extra spaces, as SQuAD's evaluation compares
    answers (arXiv 1606.05250, section 6)."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", plain).split()) or None


def _looks_like_code(text: str) -> bool:
    return "```" in text


def _looks_like_a_letter(text: str) -> bool:
    return _letter(text[-LONGEST:]) is not None


def _looks_like_a_number(text: str) -> bool:
    """A marked number, or one with few words around it."""
    text = text[-LONGEST:]
    mark, _ = _marked(_plain(text))
    return (bool(mark) or len(text.split()) <= FEW_WORDS) and _number(text) is not None


def _looks_short(text: str) -> bool:
    return len(text.split()) <= FEW_WORDS and _text(text) is not None


_READERS = {"letter": _letter, "number": _number, "text": _text}
_LOOKS: dict[Kind, Any] = {  # in this order
    "code": _looks_like_code,
    "letter": _looks_like_a_letter,
    "number": _looks_like_a_number,
    "text": _looks_short,
}
