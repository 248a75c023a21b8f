"""An answer is right if it claims the reference, in whatever style it is written."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from routewright.answers.assertions import clauses, states
from routewright.answers.claims import LONG, Claim, asked_in, claims, sentences_of, spoken, stems
from routewright.answers.dates import has_date, times_in
from routewright.answers.wording import normal, pattern_of
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.grading.graders.numeric import Numeric, is_number
from routewright.types import Query

POLAR = {
    **dict.fromkeys(
        ("yes", "true", "correct", "yep", "yeah", "indeed", "affirmative", "ja", "oui", "si"), "yes"
    ),
    **dict.fromkeys(("no", "false", "incorrect", "nope", "nein", "non"), "no"),
}
_POLAR = re.compile(rf"\b(?P<no>(?:not|isnt|wasnt) )?(?P<word>{'|'.join(POLAR)})\b")
_DOUBT = re.compile(
    r"\b(?:no doubt|no question|no longer|no one|no other|true that|correct that)\b"
)
_NEGATED = re.compile(r"\b(?:not|never|cannot|cant|isnt|arent|doesnt|dont|wasnt|didnt|no)\b")
_WHO = re.compile(
    r"\b(?:who|whose|whom|surname|author|painter|wer|qui|qui\u00e9n|quien)\b", re.IGNORECASE
)
_NAME = re.compile(
    r"(?:[^\W\d_][^\W\d_.'\u2019-]{0,30}\.? ){1,6}([^\W\d_]{3,30}(?:-[^\W\d_]{2,20})?)"
)
_STRIPPED = string.whitespace + string.punctuation


@dataclass(frozen=True)
class Match:
    """Looks for the reference as a whole phrase where an answer states its result.

    That is the last `\\boxed{}`, "####" or "the answer is", and without one the words in bold, a
    conclusion ("therefore"), a first phrase that stands alone, or the first and the last sentence.
    A phrase that is negated ("not Berlin"), one of several ("Bonn or Berlin"), only considered
    ("might be Berlin") or only mentioned ("100 km from Berlin") is no right answer. Case, accents,
    articles and punctuation do not count; numbers are compared as numbers, dates in any order,
    times on either clock, and yes and no by what the answer says first or concludes. To a question
    that asks who, the surname is enough.

    `match=begin`, `match=end`, `match=any` and `match=exact` have the meaning of inspect-ai's
    `match`: the answer begins or ends with the reference, has it anywhere, or is it, without
    regard to case and to punctuation around it.
    """

    location: Literal["claim", "begin", "end", "any", "exact"] = "claim"

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("What is the capital of Germany?"), reference="Berlin"),
        "Bonn was the capital until 1990. Today the capital of Germany is **Berlin**.",
        "It is not Berlin, but Bonn.",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        references = [text for text in item.references if text.strip()]
        if not references:
            return ungraded("no reference")
        if self.location != "claim":
            return Grade(float(any(self._stands(text, answer) for text in references)))
        numeric = Numeric().grade(item, answer) if any(map(is_number, references)) else None
        if numeric is not None and numeric.score == 1:
            return numeric
        question = item.query.text
        parts = claims(answer, question)
        phrases = [text for text in references if not is_number(text)]
        if (expected := _polarity_of(references[0])) is not None and len(references) == 1:
            return Grade(float(polarity(parts, answer, question) == expected))
        for claim in parts:
            claim = _joined(claim, references)
            if any(_claimed(claim, text, answer, question) for text in phrases):
                return Grade(1.0, answer=claim.text[:200])
        return Grade(0.0, answer=parts[-1].text[:200] if parts else None)

    def _stands(self, reference: str, answer: str) -> bool:
        reference, answer = (text.strip(_STRIPPED).casefold() for text in (reference, answer))
        tests = {
            "begin": answer.startswith,
            "end": answer.endswith,
            "any": answer.__contains__,
            "exact": answer.__eq__,
        }
        return bool(tests[self.location](reference))


def _claimed(claim: Claim, reference: str, answer: str, question: str) -> bool:
    sentence = claim.sentence
    if len(times := times_in(reference)) > 1 and "".join(times) in "".join(times_in(answer)):
        return True
    is_place = _WHERE.search(question) and _PLACE.fullmatch(reference.strip())
    parts = [] if is_place or has_date(reference) else list_of(reference)
    if parts and not _unambiguous(claim, reference):
        return _lists_all(claim, parts, answer, question)
    if _same_words(claim, reference, question):
        return True
    if _is_taken(sentence, reference, question):
        return False
    question = asked_in(question)
    asked = normal(question)
    is_echo = f" {normal(reference)} " in f" {asked} " and len(question.split()) < LONG
    if claim.text == sentence and is_echo and " or " not in asked:
        sentence = re.split(r"\b(?:is|are|was|were|ist|est|es)\b|=|:(?!\d)", sentence, maxsplit=1)[
            -1
        ]
        return states(sentence, reference)
    if _WHO.search(question) and not re.search(r"\b[A-Z]\.", reference):
        sentence = _INITIAL.sub("", sentence)
        claim = Claim(_INITIAL.sub("", claim.text), sentence)
    return any(
        (claim.text == sentence or states(claim.text, form)) and states(sentence, form, question)
        for form in forms(reference, sentence, question)
    )


def forms(reference: str, sentence: str, question: str) -> list[str]:
    """What a person would accept for a reference: it without what stands in brackets, what stands
    there if it is short, each of "grey/gray", "Thames" for "River Thames", "Paris" for "Paris,
    France" where a place was asked for, and a surname where a person was.

    >>> forms("carbon dioxide (CO2)", "", "Which gas?")
    ['carbon dioxide (CO2)', 'carbon dioxide', 'CO2']
    >>> forms("Dr. John F. Kennedy", "It was Kennedy.", "Who won?")
    ['Dr. John F. Kennedy', 'John F. Kennedy', 'Dr. John Kennedy', 'John Kennedy', 'Kennedy']
    """
    found = [reference]
    if bracket := _BRACKET.fullmatch(reference.strip()):
        found += [bracket[1].strip(), *([bracket[2]] if len(bracket[2].split()) <= 2 else [])]
    if _ALTERNATIVES.fullmatch(reference.strip()):
        found += re.split(r" ?/ ?| or ", reference.strip())
    for form in list(found):
        if (short := _GENERIC.sub("", form).strip(" ,")) and short != form:
            found.append(short)
    if _WHERE.search(question) and (place := _PLACE.fullmatch(reference.strip())):
        found.append(place[1])
    if not _WHO.search(question):
        return found
    without_initials = [re.sub(r" [A-Z]\.?(?= )", "", form) for form in found]
    found += [form for form in without_initials if form not in found]
    name = _NAME.fullmatch(found[-1].strip())
    if name and (middle := _with_middle_name(sentence, name[0])):
        found.append(middle)
    elif name and normal(found[-1]) not in normal(sentence) and not _other_name(sentence, name[0]):
        found += [name[1]]
    return found


def _with_middle_name(sentence: str, name: str) -> str:
    """A name in a sentence that has its first name and surname and one name between: "Marie
    Skłodowska Curie" for "Marie Curie"; not "John Quincy Adams", who is another one."""
    first, _, surname = name.rpartition(" ")
    if " " in first or first in _OTHERS_BY_MIDDLE_NAME.get(surname, ()):
        return ""
    given = rf"\b{re.escape(first)} [A-Z][\w’'-]{{2,30}} {re.escape(surname)}\b"
    match = re.search(given, sentence)
    return match[0] if match else ""


_OTHERS_BY_MIDDLE_NAME = {"Adams": ("John",), "Bush": ("George",)}  # sons of the same name


def list_of(reference: str) -> list[str]:
    """The parts of a reference that is a list, such as "PayPal and cash"; empty if it is none."""
    parts = re.split(r",\s(?:and |or )?|\band\b|\bund\b|\bet\b|;\s|\s&\s", reference)
    parts = [part.strip() for part in parts if part.strip()]
    return parts if 2 <= len(parts) <= 8 and all(len(part.split()) <= 5 for part in parts) else []


def _unambiguous(claim: Claim, reference: str) -> bool:
    """Whether a claim is the reference word for word."""
    return normal(claim.text) == normal(reference)


def _lists_all(claim: Claim, parts: Sequence[str], answer: str, question: str) -> bool:
    """Whether an answer asserts every part of a list, in its order if the question asks for one,
    and its claim no further one: of "Visa and cash" not "Visa, cash and PayPal"."""
    place = [any(states(claim.sentence, form) for form in forms(part, "", "")) for part in parts]
    if all(place):
        text = normal(claim.sentence)
        spots = [match.start() if (match := pattern_of(p).search(text)) else -1 for p in parts]
        ordered = spots == sorted(spots) or not _ORDER.search(question)
        return ordered and not _has_more(claim.sentence, parts)
    items = [s for s in sentences_of(answer) if re.match(r"\W*(?:[-*\u2022]|\d{1,2}[.)]) ", s)]
    right = [[states(item, part) for part in parts] for item in items]
    return bool(items) and all(map(any, right)) and all(map(any, zip(*right, strict=True)))


def _has_more(sentence: str, parts: Sequence[str]) -> bool:
    """Whether an enumeration in a sentence has an item that is none of the parts."""
    items = [i for i in re.split(r",\s(?:and |or )?|\s(?:and|&)\s|;\s", sentence) if i.strip()]
    patterns = [pattern_of(part) for part in parts]
    right = [any(pattern.search(normal(item)) for pattern in patterns) for item in items]
    if not any(right):
        return False
    first, last = right.index(True), len(right) - 1 - right[::-1].index(True)
    further = [
        item for item, is_right in zip(items[first:], right[first:], strict=True) if not is_right
    ]
    inside = not all(right[first : last + 1])
    after = items[last + 1 : last + 2]
    is_item = bool(after) and len(after[0].split()) <= 3 and not _VERB.search(after[0])
    return bool(further) and (inside or is_item)


def _is_taken(sentence: str, reference: str, question: str) -> bool:
    """Whether a sentence says of another subject what was asked, and has the reference only after
    that: "Google developed the iPhone to compete with Apple"."""
    predicate = _PREDICATE.sub("", normal(question)).strip()
    name = _SUBJECT.match(sentence)
    if name is None or " " not in predicate or len(sentence) > LONGEST:
        return False
    subject, found, rest = normal(sentence).partition(predicate)
    is_name = re.sub(r" (?:is|was|are|were)$", "", subject.strip()) == normal(name[0])
    pattern = pattern_of(reference)
    is_name = is_name and bool(found and subject.strip()) and not pattern.search(subject)
    return is_name and pattern.search(rest) is not None


LONGEST = 2000  # characters of a sentence in which a subject is looked for
_PREDICATE = re.compile(
    r"^.*?\b(?:who|which \w+|what (?:is|was|are|were|\w+))\b(?: (?:is|was|are|were)\b)?"
)
_SUBJECT = re.compile(
    r"\W*(?!(?:So|Thus|Hence|Therefore|Then|Also|Today|Here|If|When|As|And|But|For|In|On|At)\b)"
    r"(?:[A-Z][\w.'\u2019-]{1,30} ){1,4}"
)
_INITIAL = re.compile(r"(?<=[a-z]) [A-Z]\.(?= [A-Z])")
_VERB = re.compile(
    r"\b(?:is|are|was|were|in|which|who|as|has|have|that|with|because|respectively)\b"
)
_ORDER = re.compile(
    r"\b(?:order|sequence|rank|sort(?:ed)?|alphabetical|ascending|descending|chronological|"
    r"from (?:first|smallest|largest|oldest|nearest|lowest|highest|closest)|first to last)\b",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"([^()]{2,80}) ?\(([^()]{1,40})\)\.?")
_ALTERNATIVES = re.compile(r"[^\W\d][^\d/()]{1,40}(?: ?/ ?| or )[^\d/()]{1,40}")
_GENERIC = re.compile(
    r"^(?:the |mr\.? |mrs\.? |ms\.? |dr\.? |prof(?:essor|\.)? |sir |lord |lady |president |king |"
    r"queen |emperor |saint |pope |lake |mount |mt\.? |river |to )+(?=[^\W\d])|"
    r" (?:river|ocean|sea|desert|mountains?|islands?|lake|jr\.?|sr\.?)$|,? jr\.?$",
    re.IGNORECASE,
)
_WHERE = re.compile(
    r"\b(?:where|city|town|place|located|born|capital|wo|stadt|o\u00f9|ville|d\u00f3nde|ciudad)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(r"([A-Z][^,]{1,40}), [A-Z][^,]{1,40}")


def _same_words(claim: Claim, reference: str, question: str) -> bool:
    """Whether a short claim has the words of the reference, without those of the question:
    "Baikal" for "Lake Baikal" where a lake was asked for."""
    if len(claim.text.split()) > 5:
        return False
    usual = {*normal(question).split(), "of", "and", "de", "von"}
    words = {*normal(reference).split()} - usual
    alike = bool(words) and words == {*normal(claim.text).split()} - usual
    return alike and states(claim.sentence, claim.text, question)


def _joined(claim: Claim, references: Sequence[str]) -> Claim:
    """The claim without "or plentiful" after another right answer."""
    if len(references) < 2:
        return claim
    names = "|".join(map(re.escape, references))
    alternative = re.compile(
        rf",? (?:or|oder|ou) [\"\u201c]?(?:{names})\b[\"\u201d]?", re.IGNORECASE
    )
    return Claim(alternative.sub("", claim.text), alternative.sub("", claim.sentence))


def _other_name(sentence: str, name: str) -> bool:
    """Whether a sentence has the surname of a name after another first name: John Quincy before
    Adams."""
    *_, surname = name.split()
    given = r"([A-Z][\w'\u2019-]{0,30}) ([A-Z][\w.]{0,30} )?"
    before = re.search(given + re.escape(surname), sentence)
    if before is None or before[1] in _TITLES:
        return False
    if before[2] and len(before[2].strip(" .")) > 1:
        return True
    known = normal(before[1]) in normal(name).split()
    return not known and (before.start() == 0 or sentence[before.start() - 2].isalpha())


_TITLES = {
    "Mr",
    "Mrs",
    "Ms",
    "Dr",
    "Sir",
    "Lord",
    "President",
    "King",
    "Queen",
    "The",
    "By",
    "Professor",
}


# --- yes and no ----------------------------------------------------------------------------


def polarity(parts: Sequence[Claim], answer: str, question: str) -> str | None:
    """What an answer says to a question for yes or no: by a mark such as "the answer is", else by
    its first word, by its conclusion, or by a sentence that repeats the question."""
    if not parts:
        return None
    if parts[0].marked:
        return _polarity(parts[0].text) or _implied(parts[0].text, question)
    first = next(iter(sentences_of(spoken(answer))), "")
    if opening := _OPENING.match(_DOUBT.sub(" ", normal(first)).strip()):
        word = normal(first)
        return None if _BOTH.match(word) else POLAR[opening["word"]]
    if re.search(r"\b(?:it|that|this) depends\b", normal(spoken(answer))):
        return None
    for claim in reversed(parts):
        if said := _polarity(claim.text):
            return said
    for claim in reversed(parts):
        if said := _implied(claim.sentence, question):
            return said
    return _implied(spoken(answer), question)


_OPENING = re.compile(rf"(?P<word>{'|'.join(POLAR)})\b(?! (?:and|or) (?:yes|no)\b)")
_BOTH = re.compile(r"(?:yes|no|ja|nein) (?:and|or|und|oder) (?:yes|no|ja|nein)\b")


def _polarity_of(reference: str) -> str | None:
    """ "yes" or "no" for a reference that is such a word, or begins with it and a comma."""
    return POLAR.get(normal(reference.partition(",")[0]))


def _polarity(text: str) -> str | None:
    """What a claim says: its first word for yes or no."""
    text = normal(text)
    if _BOTH.search(text) or re.match(r"(?:it|that|this) depends\b", text):
        return None
    match = _POLAR.search(_DOUBT.sub(" ", text))
    if match is not None and match["word"] == "no" and not _SAYS_NO.search(text):
        match = None  # it has no divisors
    if match is None:
        return (
            "no" if re.match(r"not (?:quite|exactly|really|at all|necessarily)\b", text) else None
        )
    return _opposite(POLAR[match["word"]]) if match["no"] else POLAR[match["word"]]


def _implied(text: str, question: str) -> str | None:
    """What a sentence that repeats the question's words implies: "91 is not prime" is a no."""
    asked = stems(question)
    for sentence in reversed(sentences_of(text)):
        said = stems(sentence) - _LINKS
        if 2 * len(asked & said) >= min(len(asked), len(said)) > 0 and not sentence.endswith("?"):
            telling = " ".join(c for c in clauses(sentence) if asked & stems(c)) or sentence
            negated = bool(_NEGATED.search(_DOUBT.sub(" ", normal(telling))))
            asks_not = re.search(r"\b(?:not|never|isnt|arent|doesnt|dont|cant)\b", normal(question))
            return "no" if negated != bool(asks_not) else "yes"
    return None


_SAYS_NO = re.compile(
    r"^(?:so |thus |hence |therefore |well )?no\b|\bno$|\b(?:is|be|say|says|clear) no\b"
)
_LINKS = {
    "there",
    "thus",
    "hence",
    "concl",
    "canno",
    "cant",
    "doesn",
    "not",
    "never",
    "indee",
    "also",
}


def _opposite(word: str) -> str:
    return "no" if word == "yes" else "yes"
