"""Finds what a chat-style answer claims: "The answer is **Berlin**, not Bonn." claims Berlin.

`claims` gives the parts of an answer that state its result, and `states` and `numbers` tell what
such a part asserts. A phrase that is negated ("not Berlin"), offered as one of several
("Bonn or Berlin"), attributed to others ("many people think it is Bonn") or asked is not asserted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from routewright.answers.equivalence import numbers

LONGEST = 20_000  # characters at either end of an answer that are read
SHORT = 12  # words of a part in bold that may be a result, and of an answer that is bare


class Claim(NamedTuple):
    """One part of an answer that states its result."""

    text: str
    marked: bool  # by `\\boxed{}`, "####" or words such as "the answer is": no other part counts


def claims(answer: str) -> list[Claim]:
    """The parts that state the result: the last marked one alone, or else the first sentence,
    those with words in bold, and the last one, without pleasantries.

    >>> [claim.text for claim in claims("Bonn was it once. So the answer is Berlin.")]
    ['Berlin']
    >>> [claim.text for claim in claims("It is Berlin. Bonn was it once. Berlin has a wall.")]
    ['It is Berlin.', 'Berlin has a wall.']
    """
    text = _spoken(answer)
    if (boxed := _boxed(text)) is not None:
        return [Claim(boxed, marked=True)]
    if (part := _marked(text)) is not None:
        return [Claim(part, marked=True)]
    sentences = [s for s in sentences_of(text) if not _FILLER.match(s) and not s.endswith("?")]
    bold = [s for s in sentences if any(map(_may_be_result, _BOLD.findall(s)))]
    parts = map(_plain, dict.fromkeys((*sentences[:1], *bold, *sentences[-1:])))
    return [Claim(part, marked=False) for part in parts if part]


# --- parts ---------------------------------------------------------------------------------

_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BOLD = re.compile(r"(?:\*\*|__)(?=\S)([^*_\n]{1,300})(?:\*\*|__)(?!:)")
_MARK = re.compile(
    r"####[ \t]*"
    r"|^[#>*_ \t]{0,8}(?:final |short |correct )?(?:answer|result|solution|conclusion)[*_ \t]{0,8}"
    r"(?::[*_ \t]{0,8}|$)"
    r"|\banswers?\b(?: (?:to|for|of|here) [^.:\n]{0,80}?)?"
    r"(?:,? (?:is|are|was|would be|should be|must be|will be)\b:?|:|=)[*_ \t]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_IS_ANSWER = re.compile(
    r" (?:is|are|would be|must be)(?: thus| therefore)? (?:the|my)(?: \w{1,12}){0,2} answers?\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(  # "the answer is simple": what follows is no result
    r"(?:as follows|below|simple|easy|clear|straightforward|obvious|yours|here|given|found|this|"
    r"provided|explained|correct|right|wrong|incorrect|unknown)\b",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"[\W_]*(?:sure|certainly|of course|great question|good question|absolutely|okay|ok|thanks|"
    r"thank you|i hope|hope (?:this|that)|let me know|feel free|if you (?:have|need|want|would)|"
    r"please (?:let|note)|is there anything|happy to help|note that|let(?:'|\u2019)?s|"
    r"here(?:'|\u2019)?s|here (?:is|are)|the (?:options|candidates|choices|possibilities)|"
    r"to (?:answer|solve|find|determine|figure))\b",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|mr|mrs|ms|dr|st|mt|ft|no|vs|jr|sr|prof|approx|gen|col|lt|ca|e\.g|i\.e))\.$",
    re.IGNORECASE,
)


def _spoken(answer: str) -> str:
    """The answer without the thoughts of a reasoning model; both ends of a very long one."""
    if len(answer) > 2 * LONGEST:
        answer = f"{answer[:LONGEST]}\n\n{answer[-LONGEST:]}"
    thoughts = list(_THOUGHT.finditer(answer))
    return answer[thoughts[-1].end() :] if thoughts else answer


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, inner = 0, text[start + len("\\boxed") :]
    for place, character in enumerate(inner):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            inner = inner[1:place]
            break
    return re.sub(r"\\(?:text|textbf|mathrm|mathbf)\b|[{}]", "", inner).strip()


def _marked(text: str) -> str | None:
    """The sentence after the last "answer is" that something follows, or before "is the answer"."""
    for mark in reversed(list(_MARK.finditer(text))):
        part = next(_sentences(text[mark.end() : mark.end() + 2000]), "")
        if re.search(r"\w", part) and not _NOTHING.match(_plain(part)):
            return _plain(part)
    for sentence in reversed(list(_sentences(text))):
        if (match := _IS_ANSWER.search(sentence)) and not sentence.endswith("?"):
            return _plain(sentence[: match.start()])
    return None


def _may_be_result(part: str) -> bool:
    """Whether a part in bold may be a result: it is short, and no heading such as "Step 1:"."""
    heading = part.rstrip().endswith(":") or re.match(r"\s*(?:step|note|option)\b", part, re.I)
    return not heading and len(part.split()) <= SHORT


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, and its lines; headings of Markdown are none.

    >>> sentences_of("J. R. R. Tolkien wrote it. In 1937, 3.5 million words!")
    ['J. R. R. Tolkien wrote it.', 'In 1937, 3.5 million words!']
    """
    return list(_sentences(text))


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        start = 0
        for end in re.finditer(r"[.!?][)*_\"'\u201d]{0,4}(?=\s)", line):
            if _ABBREVIATION.search(line[max(0, end.start() - 8) : end.start() + 1]):
                continue
            if line[start : end.end()].strip():
                yield line[start : end.end()].strip()
            start = end.end()
        if re.search(r"\w", line[start:]):
            yield line[start:].strip()


def _plain(text: str) -> str:
    """The text without the signs of Markdown and LaTeX around words."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\[([^\[\]\n]{0,200})\]\([^()\s]{0,500}\)", r"\1", text)  # links
    return re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", text).strip()


# --- assertions ----------------------------------------------------------------------------

_NOT_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|isnt|wasnt|arent|werent|doesnt|dont|didnt|cannot|cant|without|"
    r"except|unlike|rather than|instead of|other than|opposed to|confused with|mistaken for|"
    r"(?:might|could|may|can) (?:also )?(?:be|have been)|perhaps|maybe|possibly|"
    r"if it (?:was|were|is)|ruled? out|excludes?|eliminates?)\b"
)
_NOT_AFTER = re.compile(
    r"^(?: \w+){0,2} (?:(?:is|are|was|were|would be|can|could|does|do|did|has|have) ?"
    r"(?:not|never|no)\b|isnt|arent|wasnt|werent|cannot|cant|doesnt|didnt|wont|"
    r"(?:is|are|was|were|would be) (?:wrong|incorrect|false|ruled out|a (?:common )?misconception|"
    r"eliminated|unlikely|impossible))\b"
)
_DOUBTLESS = re.compile(r"\b(?:not only|no doubt|without (?:a )?doubt|not just|not merely)\b")
_OTHERS = re.compile(
    r"\b(?:people|many|some|one|you|they|most|others|often|commonly|sometimes)\b.{0,40}"
    r"\b(?:think|thinks|thought|believe|believes|believed|assume|assumes|assumed|guess|expect|say|"
    r"confuse|confused|mistake|mistaken|called)\b"
)
_CLAUSE = re.compile(
    r"[;:()\u2014\u2013]|,(?!\d)|\s-\s|\b(?:but|however|whereas|although|though|while|yet)\b"
)
_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
} | {word: str(10 * ten) for ten, word in enumerate("thirty forty fifty".split(), start=3)}
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_MONTH = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|september|october|november|december)"
    r"(?= \d|$)|(?<=\d )\b(?:may|march)\b"
)
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def normal(text: str) -> str:
    """The text for comparing phrases: lower case, without accents, punctuation and articles.

    >>> normal("The São-Paulo's “seven” U.S. hills!")
    'sao paulo 7 us hills'
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"['\u2019]s\b", "", text).replace("'", "").replace("\u2019", "")
    text = re.sub(r"\b(\w)\.(?=\w\b)", r"\1", text)  # u.s. is us, and 3.5 stays
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.%+]|_", " ", text)
    text = _ARTICLE.sub(" ", text)
    text = re.sub(r"(?<=\b[^\W\d]) (?=[^\W\d]\b)", "", " ".join(text.split()))  # j r r is jrr
    return " ".join(_WORDS.get(word, word) for word in text.split())


def states(part: str, phrase: str) -> bool:
    """Whether a part of an answer asserts a phrase: it has it whole, and neither negates it nor
    offers it as one of several. The days of a date may be written in any order.

    >>> states("It is Berlin, not Bonn", "Berlin"), states("It is Berlin, not Bonn", "Bonn")
    (True, False)
    >>> states("either Bonn or Berlin", "Berlin"), states("the Berliner", "Berlin")
    (False, False)
    >>> states("It was signed on the 4th of July 1776.", "July 4, 1776")
    True
    """
    expected, text = normal(phrase), normal(part)
    if not expected:
        return False
    if _MONTH.search(expected):
        return _date(expected) <= _date(text)
    pattern = re.compile(rf"(?<![\w.]){re.escape(expected)}(?:e?s)?(?![\w%]|\.\d)")
    if pattern.fullmatch(text):
        return True
    pieces = [normal(piece) for piece in _CLAUSE.split(part)]
    if not any(pattern.search(piece) for piece in pieces):
        pieces = [text]  # the phrase has a comma or the like inside: "Paris, France"
    return any(
        _is_asserted(pieces[:i], piece[: match.start()], piece[match.end() :], pieces[i + 1 :])
        for i, piece in enumerate(pieces)
        for match in pattern.finditer(piece)
    )


def _date(text: str) -> set[str]:
    """The words of a date in a text: its month, and numbers without the endings of 4th or 2nd."""
    words = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", text).split()
    return {word[:3] if _MONTH.fullmatch(word) else word for word in words} - {"of", "on", "in"}


def numbers_in(claim: Claim, question: str = "") -> list[tuple[Fraction, str]]:
    """The numbers that a claim asserts as its result, with the word that follows each.

    Of "24 + 48 = 72" only 72 counts, and of a marked claim its first number. Numbers of the
    question count only where the claim has no others.

    >>> numbers_in(Claim("Natalia sold 48 + 24 = 72 clips in 2 months.", False), "48 in 2 months?")
    [(Fraction(72, 1), 'clips')]
    """
    sides = re.split(r"[=\u2248]", claim.text)[::-1]
    part = next((side for side in sides if len(numbers(side)) == 1), sides[0])
    if not re.search(r"\d", part):
        part = normal(part)  # "seven" is 7
    values = list(_asserted_numbers(part))
    given = {value for value, _, _ in numbers(question)}
    own = [value for value in values if value[0] not in given] or values
    return own[:1] if claim.marked else own


def _asserted_numbers(part: str) -> Iterator[tuple[Fraction, str]]:
    pieces = _CLAUSE.split(part)
    for i, piece in enumerate(pieces):
        for value, start, end in numbers(piece):
            following = re.match(r"\s*([^\W\d_]+)", piece[end:])
            word = following[1].casefold() if following else ""
            word = "%" if re.search(r"%|cent$", piece[start:end]) else word
            before, after = normal(piece[:start]), f" {normal(piece[end:])}"
            earlier, later = map(normal, pieces[:i]), map(normal, pieces[i + 1 :])
            if _is_asserted(list(earlier), before, after, list(later)):
                yield value * SCALES.get(word, 1), word


def _is_asserted(earlier: Sequence[str], before: str, after: str, later: Sequence[str]) -> bool:
    """Whether a phrase is asserted between what precedes and follows it in its clause, and the
    clauses around it."""
    if not after.strip() and later:  # "Berlin, however, is not the capital"
        after = f" {' '.join(' '.join(later).split())}"
    before = _DOUBTLESS.sub(" ", before)
    return not (
        _NOT_BEFORE.search(before)
        or _NOT_AFTER.search(after)
        or _OTHERS.search(before)
        or _is_alternative(before, after)
        or re.search(r"\b(?:either|whether)\b", " ".join([*earlier, before]))
    )


def _is_alternative(before: str, after: str) -> bool:
    """Whether "or" joins the phrase to another one, up to three words away."""
    after = re.sub(r"^ or (?:so|not|more|less)\b", "", after)
    return "or" in before.split()[-3:] or "or" in after.split()[:3]
