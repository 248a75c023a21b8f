"""An answer is right if its number equals that of the reference."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from routewright.answers.assertions import clauses, is_asserted, without_quotes
from routewright.answers.claims import claims, sentences_of, spoken
from routewright.answers.dates import durations
from routewright.answers.equivalence import key, numbers
from routewright.answers.wording import normal, with_digits
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

_NUMBER = re.compile(
    r"[~\u2248]?\s?[-+\u2212]?(?P<currency>[$€£¥])?\s?[-+\u2212]?\s?"
    r"(?:\d{1,3}(?:[,'_ \u00a0\u202f]\d{3})+(?:\.\d+)?|\.\d+"
    r"|\d+(?:\.\d+)?(?:/\d+|[eE][+-]?\d{1,3})?)"
    r"\s{0,2}(?:(?P<percent>%|percent|per cent)|(?P<unit>[€£¥]|"
    r"(?:°\s?|degrees? |square |cubic )?[^\W\d]{1,15}[²³]?(?:/[^\W\d]{1,10}[²³]?)?))?\.?",
    re.IGNORECASE,
)
UNITS = {  # by canonical unit, how it is written in lower case
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "ft": "ft foot feet",
    "mi": "mi mile miles",
    "kg": "kg kilogram kilograms kilo kilos",
    "g": "g gram grams",
    "l": "l liter liters litre litres",
    "s": "s sec second seconds",
    "min": "min minute minutes",
    "h": "h hr hour hours",
    "k": "k kelvin",
    "c": "c celsius °c",
    "f": "f fahrenheit °f",
    "eur": "€ eur euro euros",
    "usd": "$ usd dollar dollars",
    "gbp": "£ gbp pound pounds",
    "million": "million millions mio",
    "mi/h": "mph",
    "km/h": "kmh kph",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "mg": "mg milligram milligrams",
    "t": "t tonne tonnes",
    "day": "d day days",
    "week": "week weeks",
    "month": "month months",
    "year": "y yr yrs year years",
}
_SIZES = {  # by dimension, its units and how large they are
    "length": {"mm": 1, "cm": 10, "m": 1000, "km": 10**6},
    "length in feet": {"ft": 1, "mi": 5280},
    "volume": {"ml": 1, "l": 1000},
    "mass": {"mg": 1, "g": 1000, "kg": 10**6, "t": 10**9},
    "time": {"s": 1, "min": 60, "h": 3600, "day": 86_400, "week": 604_800},
    "months": {"month": 1, "year": 12},
}
SIZES = {unit: (name, size) for name, units in _SIZES.items() for unit, size in units.items()}
CANONICAL = {name: unit for unit, names in UNITS.items() for name in names.split()}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNIT = re.compile(
    r"\s{0,2}(%|percent\b|per cent\b|[€£$]|(?:°\s?|degrees? |square |cubic )?[^\W\d_]{1,15}"
    r"(?:[²³]|\^[23])?(?:/[^\W\d_]{1,10}[²³]?)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Numeric:
    """Reads the number that an answer states as its result: 1,250.00, 1/2, 50 %, 3e5, seven.

    It is the one after the last `\\boxed{}`, "####" or "the answer is". Without such a mark it may
    be any that is asserted in bold, in the last sentence or, where nothing is reckoned ("="), in
    the first one: of "signed in 1776, by 56 delegates" both count, of "24 + 48 = 72" only 72 does.
    A number of the question counts only where the answer has no others, and a negated one or one
    of several ("5 or 6") does not.

    `numeric=0.01` accepts a deviation of 1 %. Formulas need math-verify
    (`pip install routewright[maths]`); without it they stay ungraded.
    """

    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # relative to the reference

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("A pen costs $2.50. What do 500 pens cost?"), reference="1250"),
        "500 × 2.50 = 1,250, so they cost **$1,250.00**.",
        "$1,205",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        references = [t for t in item.references if key("number", _dotted(t)) is not None]
        if not references:
            return ungraded("the reference is not a number" if item.references else "no reference")
        values = results(answer, item.query.text)
        if not values:
            if key("number", answer) is None and re.search(r"\d|\\[a-z]", answer):
                return ungraded("its number cannot be read")
            return Grade(0.0, "states no number as its result")
        matches = any(self._equal(value, text) for value in values for text in references)
        if not matches:  # "1 hour and 30 minutes" are 90 minutes
            last = claims(answer, item.query.text)[-1:]
            matches = any(durations(r) & durations(part.text) for r in references for part in last)
        return Grade(float(matches), answer=str(values[-1].value))

    def _equal(self, number: Number, reference: str) -> bool:
        """Whether a number is that of a reference; 25 % is 25 too, and metres are not feet."""
        expected, form = key("number", _dotted(reference)), is_number(reference)
        unit = _canonical(form["unit"] or form["currency"] or "") if form else ""
        if isinstance(expected, Fraction):
            expected *= SCALES.get(unit, 1)
        if not isinstance(number.value, Fraction) or not isinstance(expected, Fraction):
            return number.value == expected and (unit in SCALES or _same_unit(unit, number.unit))
        value: Fraction = number.value
        kinds = [SIZES.get(unit), SIZES.get(number.unit)]
        if unit != number.unit and kinds[0] and kinds[1] and kinds[0][0] == kinds[1][0]:
            return expected * kinds[0][1] == value * kinds[1][1]
        if unit and unit not in SCALES and not _same_unit(unit, number.unit):
            return False
        if value.denominator > 1 and (places := _decimals(reference)) > 1:
            value = Fraction(round(value, places))
        percent = number.unit == "%" or (form is not None and form["percent"] is not None)
        scales = (1, 100, Fraction(1, 100)) if percent else (1,)
        tolerance = Fraction(self.tolerance) * abs(expected)
        return any(abs(value * scale - expected) <= tolerance for scale in scales)


class Number(NamedTuple):
    """A number of an answer, and the canonical unit or the word that follows it."""

    value: Hashable  # a Fraction, or the key of a formula
    unit: str = ""


def results(answer: str, question: str) -> list[Number]:
    """The numbers that an answer states as its result."""
    parts = claims(answer, question)
    marked = bool(parts) and parts[0].marked
    formula = parts[-1].text if parts and "\\frac" in parts[-1].text else None
    if formula and not marked and (number := key("number", formula)) is not None:
        return [Number(number)]
    if "\\boxed{" in answer or (marked and "\\" in parts[0].text):
        number = key("number", answer)
        return [] if number is None else [Number(number)]
    given = {value for value, _, _ in numbers(question)}
    whole = bool(parts) and not marked and parts[0].text == parts[0].sentence
    if whole and re.search(r"[=\u2248]", spoken(answer)):  # reckoned: the end counts
        sentences = [s for s in sentences_of(spoken(answer)) if not s.startswith("If ")]
        return [*next(filter(None, (_stated(s, given) for s in reversed(sentences))), [])]
    stated = [_stated(part.text, given) for part in parts]
    for i, part in enumerate(parts):
        if part.text != part.sentence:  # "**80** or **443**" asserts neither
            asserted = {number.value for number in _asserted(_dotted(with_digits(part.sentence)))}
            stated[i] = [number for number in stated[i] if number.value in asserted]
    if not any(stated):
        last = (_stated(s, given) for s in reversed(sentences_of(spoken(answer))))
        return [] if marked else [*next(filter(None, last), [])]
    if parts and parts[0].text != parts[0].sentence:  # bold, or a first phrase: the last one counts
        return [*next(filter(None, reversed(stated)), [])]
    return [number for part in stated for number in (part[:1] if marked else part)]


def _stated(part: str, given: Set[Fraction]) -> list[Number]:
    """The numbers that a part of an answer asserts: of "24 + 48 = 72" only 72. Those that are
    `given` in the question count only where there are no others."""
    sides = re.split(r"[=\u2248]", _dotted(with_digits(without_quotes(part))))[::-1]
    values = [*_asserted(next((side for side in sides if len(numbers(side)) == 1), sides[0]))]
    return [number for number in values if number.value not in given] or values


def _asserted(part: str) -> Iterator[Number]:
    pieces = clauses(part)
    for i, piece in enumerate(pieces):
        aside = _SINCE.match(piece) if i else None
        for value, start, end in numbers(piece):
            if aside is not None and start >= aside.end():
                continue
            following = _UNIT.match(piece, end)
            sign = re.search(r"[€£$]|\b(?:EUR|USD|GBP)\b", piece[max(0, start - 4) : start + 2])
            word = following[1] if following else sign[0] if sign else ""
            unit = "%" if re.search(r"%|cent$", piece[start:end]) else _canonical(word)
            after = f" {normal(piece[end:])}"
            around = [normal(clause) for clause in pieces[:i]]
            rest = [normal(clause) for clause in pieces[i + 1 :]]
            if is_asserted(around, normal(piece[:start]), after, rest):
                yield Number(value * SCALES.get(unit, 1), unit)


_SINCE = re.compile(  # "…, a year after its announcement in 2007" says when something else was
    r"\s*(?:just |only |about )?[\w-]{1,12} (?:years?|decades?|months?|weeks?|days?) "
    r"(?:after|before)\b"
)


def _dotted(text: str) -> str:
    """The text with a decimal point for a decimal comma before a unit, no spaces between thousands,
    and a sign for "minus"."""
    text = re.sub(r"\b(\d+),(\d{1,2})(?=\s?(?:€|EUR\b|Euro\b|kg\b|km\b|m\b|%))", r"\1.\2", text)
    text = re.sub(r"\bminus (?=\d)|\u2212", "-", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\d)/(?=[A-Za-z])", " /", text)
    text = re.sub(r"(\d) dollars?,? and (\d\d?) cents?", r"\1.\2 dollars", text)
    text = _FRACTION.sub(_fraction, text)
    text = re.sub(r" per (?=hour|minute|second)", "/", text)
    return re.sub(r"\b(\d{1,3}) (?=\d{3}\b(?!\s\d{1,2}\b))", r"\1", text)


def _decimals(reference: str) -> int:
    """How many decimal places a reference has."""
    return len(reference.strip().partition(".")[2].rstrip("% ")) if "." in reference else 0


def _canonical(word: str) -> str:
    """The canonical form of a unit, such as "m²" for "square metres"; else the word itself."""
    word = word.casefold().strip().replace("^2", "²").replace("^3", "³")
    word = re.sub(r"^(?:degrees? |°\s?)", "", word)
    power = "²" if word.startswith("square ") else "³" if word.startswith("cubic ") else ""
    name = word.removeprefix("square ").removeprefix("cubic ")
    power, name = power or name[-1:].strip(name.rstrip("²³")[-1:]), name.rstrip("²³")
    power = power if power in ("²", "³") else ""
    if name in ("percent", "per cent"):
        return "%"
    first, slash, rest = name.partition("/")
    return CANONICAL.get(first, first) + slash + CANONICAL.get(rest, rest) + power


def _same_unit(unit: str, other: str) -> bool:
    """Whether two canonical units may be the same: a word that is no known unit may be anything."""
    names = (unit, other)
    known = all("/" in name or name.rstrip("²³") in UNITS for name in names) and other != "million"
    return unit == other if known else True


PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "eighth": 8,
    "tenth": 10,
}  # fmt: skip
NUMERATORS = {str(n): n for n in range(2, 10)}
_FRACTION = re.compile(
    rf"\b(?:(one|an?|{'|'.join(NUMERATORS)})[ -])({'|'.join(PARTS)})s?\b(?! (?:as|past|to)\b)"
    r"|^\W*()(half)\W*$",
    re.IGNORECASE,
)


def _fraction(match: re.Match[str]) -> str:
    part = (match[2] or match[4]).casefold()
    return f"{NUMERATORS.get((match[1] or '').casefold(), 1)}/{PARTS[part]}"


def is_number(reference: str) -> re.Match[str] | None:
    """The match of a reference that is a number, perhaps with a currency, percent sign or unit."""
    return _NUMBER.fullmatch(_dotted(reference.strip()))
