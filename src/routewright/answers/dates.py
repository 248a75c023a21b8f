"""Reads dates, times of day and durations in texts, in the ways in which people write them."""

from __future__ import annotations

import re

from routewright.answers.wording import with_digits

MONTHS = [  # the names of each month in English, German, French and Spanish
    "january januar janvier enero jan",
    "february februar fevrier f\u00e9vrier febrero feb",
    "march m\u00e4rz maerz mars marzo mar",
    "april avril abril apr",
    "may mai mayo",
    "june juni juin junio jun",
    "july juli juillet julio jul",
    "august ao\u00fbt agosto aug",
    "september septembre septiembre sept sep",
    "october oktober octobre octubre oct okt",
    "november novembre noviembre nov",
    "december dezember d\u00e9cembre diciembre dec dez",
]
NUMBERS = {name: n for n, names in enumerate(MONTHS, start=1) for name in names.split()}
_DATE = re.compile(
    r"\b(?P<iso>\d{4})[-/](?P<isomonth>\d{1,2})[-/](?P<isoday>\d{1,2})\b"
    r"|\b(?P<one>\d{1,2})(?P<sign>[./-])(?P<two>\d{1,2})(?P=sign)(?P<last>\d{4})\b"
    r"|(?:\b(?P<before>\d{1,2})(?:st|nd|rd|th|er|\.)?,?\s(?:day\s)?(?:of\s|de\s)?)?"
    rf"\b(?P<month>{'|'.join(sorted(NUMBERS, key=len, reverse=True))})\b\.?"
    r"(?:,?\s(?:the\s)?(?P<after>\d{1,2})(?:st|nd|rd|th)?\b(?![:.]\d))?"
    r"(?:,?\s(?:of\s|de\s|in\s)?(?P<year>\d{4})\b)?",
    re.IGNORECASE,
)
_TIME = re.compile(r"\b(\d{1,2})(?:[:.h]([0-5]\d))?\s?(?:(a|p)\.?m\b\.?|uhr\b)?", re.IGNORECASE)
_NAMED_TIME = {"noon": "12:00", "midday": "12:00", "midnight": "0:00"}
_NAMED = re.compile(rf"\b(?:{'|'.join(_NAMED_TIME)})\b", re.IGNORECASE)
_DURATION = re.compile(
    r"(?:(\d{1,4}(?:\.\d{1,4})?)( and a half)?\s?(?:h|hours?|hrs?|stunden?)\b"
    r"(?:,? (?:and )?|(?=\d))?)?"
    r"(?:(\d{1,4}(?:\.\d{1,4})?)\s?(?:m|min|mins|minutes?|minuten)\b)?",
    re.IGNORECASE,
)


def has_date(text: str) -> bool:
    return any(_parts(match) for match in _DATE.finditer(text))


def with_dates(text: str, *, day_first: bool = False) -> str:
    """The text with a word for each of its dates; `day_first` reads 3/4 as the third of April.

    >>> with_dates("It was the 4th of July, 1776."), with_dates("1776-07-04"), with_dates("May I?")
    ('It was the date1776x07x04.', 'date1776x07x04', 'May I?')
    """

    def word(match: re.Match[str]) -> str:
        parts = _parts(match, day_first)
        return "date{:04}x{:02}x{:02}".format(*parts) if parts else match[0]

    return _DATE.sub(word, text)


def pattern_of_date(phrase: str, question: str = "") -> re.Pattern[str]:
    """Matches the word of `with_dates` for a date, whatever an incomplete date leaves open; a year
    that the question gives may be missing."""
    year, month, day = re.findall(r"\d+", phrase)
    year = r"\d{4}" if year == "0000" else rf"(?:{year}{'|0000' * (year in question)})"
    day = r"\d\d" if day == "00" else day
    return re.compile(rf"\bdate{year}x{month}x{day}\b")


def _parts(match: re.Match[str], day_first: bool = False) -> tuple[int, int, int] | None:
    """The year, month and day of a date, 0 where it has none; None if it is no date."""
    if match["iso"]:
        parts = int(match["iso"]), int(match["isomonth"]), int(match["isoday"])
    elif match["one"]:
        one, two = int(match["one"]), int(match["two"])
        if one > 12 or (two <= 12 and (day_first or match["sign"] == ".")):
            one, two = two, one
        parts = int(match["last"]), one, two
    else:
        day = match["before"] or match["after"]
        if not day and not match["year"]:
            return None  # "may" and "march" are words, too
        parts = int(match["year"] or 0), NUMBERS[match["month"].casefold()], int(day or 0)
    return parts if 1 <= parts[1] <= 12 and parts[2] <= 31 else None


def times_in(text: str) -> list[str]:
    """The times of day in a text, each as "hh:mm;", in their order."""
    text = _NAMED.sub(lambda m: _NAMED_TIME[m[0].casefold()], text)
    return [_clock(match) for match in _TIME.finditer(text) if match[2] or match[3]]


def with_times(text: str) -> str:
    """The text with a word for each time of day in it.

    >>> with_times("At noon, or at 6 pm")
    'At time12x00, or at time18x00'
    """
    text = _NAMED.sub(lambda m: _NAMED_TIME[m[0].casefold()], text)
    return _TIME.sub(lambda m: _word_of(_clock(m)) if m[2] or m[3] else m[0], text)


def pattern_of_time(time: str) -> re.Pattern[str]:
    """Matches the word of `with_times` for a time such as "18:00;"."""
    return re.compile(rf"\b{_word_of(time)}\b")


def _word_of(time: str) -> str:
    return f"time{time[:2]}x{time[3:5]}"


def _clock(time: re.Match[str]) -> str:
    hour = int(time[1])
    if time[3]:
        hour = hour % 12 + 12 * (time[3].casefold() == "p")
    return f"{hour:02}:{time[2] or '00'};"


def durations(text: str) -> set[float]:
    """The times in a text such as "2 h 30 min", "2.5 hours" or "150 minutes", in minutes."""
    return {
        60 * (float(m[1] or 0) + 0.5 * bool(m[2])) + float(m[3] or 0)
        for m in _DURATION.finditer(with_digits(text))
        if m[1] or m[3]
    }
