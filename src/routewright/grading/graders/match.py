"""An answer is right if it claims the reference, in whatever style it is written."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from routewright.answers.claims import LONG, Claim, claims, normal, sentences_of, states, times_in
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.grading.graders.numeric import Numeric, is_number
from routewright.types import Query

POLAR = {
    **dict.fromkeys(("yes", "true", "correct", "yep", "yeah", "ja", "oui", "si"), "yes"),
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
_NAME = re.compile(r"(?:[^\W\d_][^\W\d_.'\u2019-]{0,30}\.? ){1,6}([^\W\d_]{3,30})")
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
    if (expected := _polarity_of(reference)) is not None:
        return (_polarity(claim.text) or _implied(answer, question)) == expected
    form, sentence = reference, claim.sentence
    if len(times := times_in(reference)) > 1 and "".join(times) in "".join(times_in(answer)):
        return True
    if _same_words(claim, reference, question) or _lists_all(answer, reference):
        return True
    is_echo = f" {normal(reference)} " in f" {normal(question)} " and len(question.split()) < LONG
    if claim.text == sentence and is_echo:
        sentence = re.split(r"\b(?:is|are|was|were|ist|est|es)\b|[:=]", sentence, maxsplit=1)[-1]
        return states(sentence, reference)
    name = _NAME.fullmatch(reference.strip()) if _WHO.search(question) else None
    if name and normal(reference) not in normal(sentence) and not _other_name(sentence, name[1]):
        form = name[1]
    if claim.text != sentence and not states(claim.text, form):
        return False
    return states(sentence, form, question)


def _same_words(claim: Claim, reference: str, question: str) -> bool:
    """Whether a short claim has the words of the reference, without those of the question:
    "Baikal" for "Lake Baikal" where a lake was asked for."""
    if len(claim.text.split()) > 5:
        return False
    usual = {*normal(question).split(), "of", "and", "de", "von"}
    words = {*normal(reference).split()} - usual
    alike = bool(words) and words == {*normal(claim.text).split()} - usual
    return alike and states(claim.sentence, claim.text)


def _lists_all(answer: str, reference: str) -> bool:
    """Whether an answer asserts every part of a reference that is a list: "PayPal and cash"."""
    parts = [part for part in re.split(r",\s|\band\b|\bund\b|\bet\b", reference) if part.strip()]
    if not 2 <= len(parts) <= 6:
        return False
    sentences = sentences_of(answer)
    return all(any(states(sentence, part) for sentence in sentences) for part in parts)


def _joined(claim: Claim, references: Sequence[str]) -> Claim:
    """The claim without "or plentiful" after another right answer."""
    if len(references) < 2:
        return claim
    names = "|".join(map(re.escape, references))
    alternative = re.compile(
        rf",? (?:or|oder|ou) [\"\u201c]?(?:{names})\b[\"\u201d]?", re.IGNORECASE
    )
    return Claim(alternative.sub("", claim.text), alternative.sub("", claim.sentence))


def _other_name(sentence: str, surname: str) -> bool:
    """Whether a sentence has the surname after another name: John Quincy before Adams."""
    return (
        re.search(rf"\w [A-Z]\w+ {re.escape(surname)}|^[A-Z]\w+ {re.escape(surname)}", sentence)
        is not None
    )


def _polarity_of(reference: str) -> str | None:
    """ "yes" or "no" for a reference that is such a word, or begins with it and a comma."""
    return POLAR.get(normal(reference.partition(",")[0]))


def _polarity(text: str) -> str | None:
    """What a claim says to a question for yes or no: its first such word."""
    match = _POLAR.search(_DOUBT.sub(" ", normal(text)))
    if match is None:
        return None
    return _opposite(POLAR[match["word"]]) if match["no"] else POLAR[match["word"]]


def _implied(answer: str, question: str) -> str | None:
    """What a sentence that repeats the question's words implies: "91 is not prime" is a no."""
    asked = _stems(question)
    for sentence in reversed(sentences_of(answer)):
        stems = _stems(sentence)
        share = 2 * len(asked & stems) >= min(len(asked), len(stems)) > 0
        if share and sentence.endswith((".", "!")):
            return "no" if _NEGATED.search(normal(sentence)) else "yes"
    return None


def _stems(text: str) -> set[str]:
    return {word[:5] for word in normal(text).split() if len(word) > 2}


def _opposite(word: str) -> str:
    return "no" if word == "yes" else "yes"
