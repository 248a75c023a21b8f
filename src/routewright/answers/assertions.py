"""Tells whether a part of an answer asserts a phrase: "It is Berlin, not Bonn" asserts Berlin only.

A phrase that is negated ("not Berlin"), offered as one of several ("Bonn or Berlin"), attributed to
others ("many people think it is Bonn"), asked, or only mentioned ("100 km from Berlin") is not
asserted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from routewright.answers.dates import (
    durations,
    has_date,
    pattern_of_date,
    pattern_of_time,
    times_in,
    with_dates,
    with_times,
)
from routewright.answers.wording import normal, pattern_of

_NOT_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|isnt|wasnt|arent|werent|doesnt|dont|didnt|cannot|cant|without|"
    r"except|unlike|rather than|instead of|other than|opposed to|confused with|mistaken for|"
    r"(?:might|could|may|can) (?:also )?(?:be|have been)|perhaps|maybe|possibly|tempting|"
    r"might expect|might think|if it (?:was|were|is)|rule[ds]? out|excludes?|eliminates?|both|"
    r"nicht|kein|keine|weder|vielleicht|k\u00f6nnte|pas|ni|soit|peut etre|pourrait|"
    r"no es|quiza|quizas|podria|en lugar de|statt|au lieu de)\b"
)
_MENTIONED = re.compile(  # what stands directly before a phrase that is only mentioned
    r"(?:\bthan|\bagainst|\blost to|\bcompet(?:es?|ed|ing) with|\bfollowed by|\brival of|"
    r"\bcompared (?:with|to)(?: that of)?|\breverse of|"
    r"\b(?:differs?|different|differed) from|\b(?:km|kilometers|kilometres|miles|hours) from|"
    r"\b(?:years?|days?|months?|ans|jahre) (?:after|before|apres|nach|vor)|\bbesides|\brelated|"
    r"\btogether with|\bcorresponds to|\bminus|\bthat of|\bovertaken|\bbeat|\bdefeated|"
    r"\bdefeating|\bto give|(?:^| )no|\bcompared with|\bgegen|\breleased with|\bafter|\bbefore|"
    r"\b(?:ahead|in front) of|\bbehind)(?: (?:mt|lake|river))?$"
)
_APPOSITION = re.compile(
    r"(?:who (?:is|was) )?\w+(?: \w+)? (?:of|de|von)$"
)  # ", a friend of Franz Kafka"
_NOT_AFTER = re.compile(
    r"^(?: \w+){0,2} (?:(?:is|are|was|were|would be|can|could|does|do|did|has|have) ?"
    r"(?:not|never|no)\b|isnt|arent|wasnt|werent|cannot|cant|doesnt|didnt|wont|comes? to mind|"
    r"(?:is|are|was|were|would be) (?:wrong|incorrect|false|ruled out|a (?:common )?misconception|"
    r"eliminated|unlikely|impossible|tempting|different|another|tied))\b"
    r"|^(?: \w+)? (?:minus|less|menos|moins|weniger)\b"
)
_DOUBTLESS = re.compile(
    r"\b(?:not only|no doubt|without (?:a )?doubt|not just|not merely|not to be confused)\b"
)
_OTHERS = re.compile(
    r"\b(?:people|many|some|one|you|they|most|others|often|commonly|sometimes|first|zuerst|"
    r"d abord)\b.{0,40}\b(?:think|thinks|thought|believe|believes|believed|assume|assumes|assumed|"
    r"guess|say|confuse|confused|mistake|mistaken|called)\b"
)
_CLAUSE = re.compile(
    r"[;:()\u2014\u2013]|,(?!\d)|\s-\s|\b(?:but|however|whereas|although|though|while|yet|aber|"
    r"sondern|mais|pero|sino)\b"
)
_OR = frozenset({"or", "oder", "ou"})
_EITHER = re.compile(r"\b(?:either|whether|entweder)\b")


def states(part: str, phrase: str, question: str = "") -> bool:
    """Whether a part of an answer asserts a phrase: it has it whole, and neither negates it nor
    offers it as one of several. Dates may be written in any order, and times on either clock. A
    phrase that only begins a clause counts less where another clause has more of the question.

    >>> states("It is Berlin, not Bonn", "Berlin"), states("It is Berlin, not Bonn", "Bonn")
    (True, False)
    >>> states("either Bonn or Berlin", "Berlin"), states("the Berliner", "Berlin")
    (False, False)
    >>> states("It was signed on the 4th of July 1776.", "July 4, 1776"), states("6 pm", "18:00")
    (True, True)
    """
    part = _ASIDE.sub(" ", without_quotes(part, phrase))
    part = _EXPLANATION.sub(" ", part) if part.lstrip()[:1] != "(" else part
    if not normal(phrase):
        return False
    if re.search(r"\d[^\d.]+\d", normal(phrase)) and (minutes := durations(phrase)):
        return bool(minutes & durations(part))
    if has_date(phrase):
        return any(_states_date(part, phrase, question, first) for first in (False, True))
    if len(times := times_in(phrase)) > 1:
        return "".join(times) in "".join(times_in(part))
    if times:
        return _asserts(with_times(part), pattern_of_time(times[0]), question)
    return _asserts(_without_longer(part, phrase), pattern_of(phrase), question)


def _states_date(part: str, phrase: str, question: str, day_first: bool) -> bool:
    part = with_dates(part, day_first=day_first)
    phrase = with_dates(phrase, day_first=day_first)
    found = [pattern_of_date(date, question) for date in _DATE_WORD.findall(phrase)]
    return all(_asserts(part, pattern, question) for pattern in found)


def _asserts(part: str, pattern: re.Pattern[str], question: str) -> bool:
    text = normal(part)
    if pattern.fullmatch(text):
        return True
    pieces = [normal(piece) for piece in _CLAUSE.split(part)]
    if not any(pattern.search(piece) for piece in pieces):
        pieces = [text]  # the phrase has a comma or the like inside: "Paris, France"
    return any(
        is_asserted(pieces[:i], piece[: match.start()], piece[match.end() :], pieces[i + 1 :])
        and not _is_aside(piece[: match.start()], piece[match.end() :], pieces, i, question)
        for i, piece in enumerate(pieces)
        for match in pattern.finditer(piece)
    )


def _without_longer(part: str, phrase: str) -> str:
    """A part of an answer without longer names that have the phrase in them: "New York" is no York,
    and "GPT-4o mini" no GPT-4o."""
    expected = normal(phrase)

    def rest(match: re.Match[str]) -> str:
        name = normal(match[0])
        _, _, after_first = name.partition(" ")
        before_last, _, _ = name.rpartition(" ")
        longer = f"{after_first} ".startswith(f"{expected} ") if match.re is _PLACE else False
        longer = longer or (match.re is _MODEL and f" {before_last}".endswith(f" {expected}"))
        return " " if longer else match[0]

    return _MODEL.sub(rest, _PLACE.sub(rest, part))


_DATE_WORD = re.compile(r"date\d{4}x\d\dx\d\d")
_PLACE = re.compile(
    r"\b(?:New|North|South|East|West|San|Santa|Papua|Equatorial|Port|Los|Las|El|Baja)"
    r"(?: [A-Z][\w'\u2019-]{1,30}){1,2}"
)
_MODEL = re.compile(
    r"\b[\w'.-]{1,30}(?: [\w'.-]{1,30}){0,2} "
    r"(?i:mini|nano|pro|max|ultra|plus|lite|junior|II|III|IV)\b"
)


def without_quotes(part: str, phrase: str = "") -> str:
    """A part of an answer without what it quotes, but for quotes of the phrase."""
    return _QUOTED.sub(lambda m: m[0] if phrase and normal(phrase) in normal(m[0]) else " ", part)


_ASIDE = re.compile(r"\((?:or|also|aka|i\.e\.)\s[^()]{0,80}\)", re.IGNORECASE)
_EXPLANATION = re.compile(r"\((?=(?:[^()\s]{1,30}\s){3})[^()]{1,200}\)")  # of four words or more
_QUOTED = re.compile(r"[\"\u201c\u201e][^\"\u201c\u201d\n]{1,80}[\"\u201d\u201c]")


def _is_aside(before: str, after: str, pieces: Sequence[str], i: int, question: str) -> bool:
    """Whether the phrase is the subject of a clause that says less of what was asked than another:
    "Louis Pasteur discovered it, and Alexander Fleming got the prize"."""
    if before.strip() not in ("", "and", "und", "et", "y") or len(after.split()) < 2:
        return False
    asked = {word for word in normal(question).split() if len(word) > 3 or word.isdigit()}
    shares = [len(asked & set(piece.split())) for piece in pieces]
    others = [n for j, n in enumerate(shares) if j != i and not _NOT_BEFORE.search(pieces[j])]
    return max(others, default=0) > shares[i]


def clauses(part: str) -> list[str]:
    """The clauses of a sentence, cut at commas, brackets, "but" and the like."""
    return _CLAUSE.split(part)


def is_asserted(earlier: Sequence[str], before: str, after: str, later: Sequence[str]) -> bool:
    """Whether a phrase is asserted between what precedes and follows it in its clause, and the
    clauses around it; all as `normal` writes them."""
    if not after.strip() and later:  # "Berlin, however, is not the capital"
        after = f" {' '.join(' '.join(later).split())}"
    before = _DOUBTLESS.sub(" ", before).strip()
    return not (
        _NOT_BEFORE.search(before)
        or _MENTIONED.search(before)
        or (earlier and _APPOSITION.match(before))
        or _NOT_AFTER.search(after)
        or _OTHERS.search(before)
        or _is_alternative(before, after)
        or _EITHER.search(" ".join([*earlier, before]))
    )


def _is_alternative(before: str, after: str) -> bool:
    """Whether "or" joins the phrase to another one, up to three words away."""
    after = re.sub(r"^ or (?:so|not|more|less)\b", "", after)
    return bool(_OR & {*before.split()[-3:], *after.split()[:3]})
