"""Finds what a chat-style answer claims: "The answer is **Berlin**, not Bonn." claims Berlin.

`claims` gives the parts of an answer that state its result; `assertions.states` tells whether such
a part asserts a phrase.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from routewright.answers.dates import NUMBERS
from routewright.answers.phrases import (
    COMMON,
    CONCLUDING,
    CONCLUSION,
    CONFIRMATION,
    CORRECTION,
    FILLER,
    INTERJECTION,
    LISTING,
    MORE,
    REJECTION,
)
from routewright.answers.wording import normal

LONGEST = 20_000  # characters at either end of an answer that are read
HALF = 0.5  # share of a question's words from which a sentence takes it up
SHORT = 12  # words of a part in bold that may be a result
LONG = 25  # words from which a question may hold the text that answers it
BARE = 4  # words of a first phrase that is an answer by itself


class Claim(NamedTuple):
    """One part of an answer that states its result, and the sentence that it stands in."""

    text: str
    sentence: str
    marked: bool = False  # by `\\boxed{}`, "####" or words such as "the answer is"


def claims(answer: str, question: str = "") -> list[Claim]:
    """The parts that state the result, by the first rule that finds one: the last `\\boxed{}` or
    "the answer is"; words in bold that the question does not have; the last sentence, if it says
    "therefore" or the like; a first phrase that stands alone ("Berlin, of course."); and else the
    first and the last sentence. Thoughts, pleasantries, questions and what a "Correction:" takes
    back are left out.

    >>> [claim.text for claim in claims("Bonn was it once. So the answer is Berlin.")]
    ['Berlin.']
    >>> [claim.text for claim in claims("It lies on the Spree. Bonn lies on the Rhine.")]
    ['It lies on the Spree.', 'Bonn lies on the Rhine.']
    """
    text = spoken(answer)
    if (boxed := _boxed(text)) is not None:
        return [Claim(boxed, boxed, marked=True)]
    if (part := _marked(text)) is not None:
        return [Claim(part, part, marked=True)]
    fences = [fence.strip() for fence in _FENCE.findall(text)]
    text = _FENCE.sub("\n", text)
    question = asked_in(question)
    if heading := _ANSWER_HEADING.match(text):  # a heading that is all answer
        return [Claim(plain(heading[1]), plain(heading[1]))]
    sentences = _labelled(_telling(sentences_of(text)), question) or _headings(text)
    if fences and ((len(fences) == 1 and "\n" not in fences[0]) or not sentences):
        return [Claim(fence, fence) for fence in fences]
    if len(sentences) == 1 and (label := _label(sentences[0])):
        asks_for_it = stems(label) & stems(question)
        value = sentences[0].partition(f"{label}:")[2] if asks_for_it else sentences[0]
        return [Claim(plain(value), plain(sentences[0]))]
    if checked := [plain(s) for s in sentences if _CHECKED.search(s)]:
        return [Claim(part, part) for part in checked]
    concluding = [s for s in sentences[1:] if _CONCLUSION.search(s)][-1:]
    asked = normal(question)
    if bold := [*_bold(concluding, asked)] or [*_bold(sentences, asked)]:
        is_list = _LISTED.match(bold[0].sentence)
        if not (is_list and concluding):
            return bold if is_list else _of_first(bold)
    if concluding:
        sentences = [*concluding, *([] if concluding[0] == sentences[-1] else sentences[-1:])]
    elif sentences and (leads := _leads(sentences[0])):
        return [Claim(lead, plain(sentences[0])) for lead in leads]
    else:
        sentences = _answering(sentences, question)
    parts = map(plain, dict.fromkeys(sentences))
    return [Claim(_consequence(part), _consequence(part)) for part in parts if part]


def _telling(sentences: Sequence[str]) -> list[str]:
    """The sentences that may tell a result: no pleasantries, no asides and no questions. An
    announcement ("The capital is:") is joined with the line after it."""
    joined: list[str] = []
    for sentence in sentences:
        sentence = _INTERJECTION.sub("", sentence)
        announced = bool(joined) and joined[-1].endswith(":") and not _FILLER.match(joined[-1])
        if announced and not _LISTED.match(sentence) and not _FILLER.match(sentence):
            joined[-1] += f" {sentence}"
        elif re.search(r"\w", sentence):
            joined.append(sentence)
    joined = [s for s in joined if not _LISTING.match(s) and not s.endswith("?")]
    return [s for s in joined if not _FILLER.match(s) or _CONCLUSION.search(s)] or joined


def _labelled(sentences: list[str], question: str) -> list[str]:
    """Of lines such as "**Founder:** Kurz" and "**CEO:** Haddad" the one whose label is most of
    what was asked, or a total; the first one if several are; all sentences if there are no two such
    lines, or if the last sentence concludes from them."""
    labels = [_label(sentence) for sentence in sentences]
    if len(sentences) < 2 or not all(labels[:2]) or any(map(_CONCLUSION.search, sentences)):
        return sentences
    asked, last = stems(question), sentences[-1]
    if not labels[-1] and (2 * len(asked & stems(last)) >= len(asked) or "=" in last):
        return sentences
    totals = [s for s, label in zip(sentences, labels, strict=True) if _TOTAL.search(label)]
    shares = [len(stems(label) & asked) for label in labels]
    return totals[-1:] or [sentences[shares.index(max(shares))]]


def _label(sentence: str) -> str:
    """What stands before the colon of a line such as "**CEO:** Haddad"; "" if it is another."""
    match = _LABEL.match(sentence)
    if match is None or _VERB.search(match[1]) or _HEADING.match(match[1].strip("*_ ")):
        return ""
    return match[1]


_TOTAL = re.compile(r"\b(?:total|sum|result|left|remaining|remainder|difference)\b", re.I)
_LABEL = re.compile(
    r"[-*\u2022 ]{0,4}((?:[*_]{2})?[^\W_][^:.!?()\n]{0,40}(?:\([^()\n]{1,30}\))?):[*_]{0,2} +(?=\S)"
)


_ANSWER_HEADING = re.compile(r"\s*#{1,6} +[*_]{0,2}([^\w\n]?\d[\d.,%]{0,14})[*_]{0,2}[ \t]*\n\s*\S")


def _headings(text: str) -> list[str]:
    return [line.strip("# \t") for line in text.splitlines() if line.lstrip().startswith("#")]


def _answering(sentences: Sequence[str], question: str) -> list[str]:
    """The first and the last sentence, and one between them that has more of the question; without
    a first one that has little of it where the last one has most, and without a last one that only
    says more about the first ("It has 3.7 million people")."""
    ends = list(dict.fromkeys((*sentences[:1], *sentences[-1:])))
    asked = stems(question)
    if len(sentences) < 2 or len(asked) < 2:
        return ends
    shares = [len(asked & stems(sentence)) / len(asked) for sentence in sentences]
    first, last = shares[0], shares[-1]
    if first >= HALF and last < first / 2 and _MORE.match(sentences[-1]):
        return ends[:1]
    if last >= HALF and first < last / 2:
        return ends[-1:]
    best = max(range(len(sentences)), key=lambda i: (shares[i], i))
    return [*ends, sentences[best]] if shares[best] > max(HALF, first, last) else ends


def result_of(claim: str, question: str) -> str:
    """A short claim without a subject or a predicate that only takes up the question.

    >>> result_of("It is Bonn.", ""), result_of("Bonn was the capital.", "What was the capital?")
    ('Bonn.', 'Bonn')
    """
    asked = stems(question)
    for link in _LINK.finditer(claim) if len(claim.split()) <= LONG else ():
        subject, rest = claim[: link.start()].strip(), claim[link.end() :].strip()
        if rest and (_PRONOUN.fullmatch(subject) or (stems(subject) and stems(subject) <= asked)):
            return rest
        if subject and stems(rest) and stems(rest) <= asked:
            return subject
    return claim


_LINK = re.compile(
    r"(?:'s|\u2019s|(?<=\w) (?:would be|must be|is|was|are|were|has|have|had))(?= )", re.IGNORECASE
)
_PRONOUN = re.compile(r"it|this|that|he|she|they|these|(?:the|my) answer", re.IGNORECASE)


def asked_in(question: str) -> str:
    """The last sentence of a question that ends with a question mark, without what else it quotes.

    >>> asked_in("Where is it? Text: 'It is in Bremen.'")
    'Where is it?'
    """
    asked: list[str] = _ASKED.findall(question[:LONGEST])
    return asked[-1].strip() if asked and len(asked[-1].split()) > 2 else question


_ASKED = re.compile(r"[^.?!\n]{1,300}\?")


def stems(text: str) -> set[str]:
    """The first letters of the words of a text, without its commonest words."""
    return {word[:5] for word in normal(text).split() if len(word) > 2 and word not in COMMON}


# --- parts ---------------------------------------------------------------------------------

_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_CORRECTION = re.compile(rf"\b(?:{CORRECTION})", re.IGNORECASE)
_REJECTED = re.compile(rf"\b(?:{REJECTION})(?:[.!]|$)", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"[!?\n]|\.(?!\w)")
_CONFIRMED = re.compile(rf"\b(?:{CONFIRMATION})\b", re.IGNORECASE)
_TABLE_RULE = re.compile(r"[ \t:|]*-[ \t:|-]*")
_INTERJECTION = re.compile(
    rf"^[\W_]{{0,4}}(?:{INTERJECTION})(?:[,.!:\u2014\u2013]|\s[-\u2013\u2014])+\s*", re.IGNORECASE
)
_MORE = re.compile(rf"(?:{MORE})\b", re.IGNORECASE)
_CHECKED = re.compile("[\u2705\u2714\u2713]")
_FENCE = re.compile(r"```[a-zA-Z]{0,20}[ \t]*\n([^`]{0,10000})```")
_BOLD = re.compile(r"(?<![\w*])(?:\*\*\*?|__)(?=\S)([^*\n]{1,300})(?:\*\*\*?|__)(?![\w:*])")
_MARK = re.compile(
    r"####[ \t]*"
    r"|^[#>*_ \t]{0,8}(?:final |short |correct )?(?:(?:answer|antwort|r\u00e9ponse|respuesta)"
    r"[*_ \t]{0,8}(?::[*_ \t]{0,8}|$)|(?:result|solution|conclusion)[*_ \t]{0,8}:[*_ \t]{0,8})"
    r"|(?<!long )(?<!detailed )\b(?:(?:correct|right|best) (?:option|choice|statement|match)"
    r"|answers?|antwort|r\u00e9ponse|respuesta)\b"
    r"(?: (?:to|for|of|here|finale|correcta) ?(?:[^.:\n]{0,80}? )??)?"
    r"(?:,? ?\b(?:is|are|was|would be|should be|must be|will be|lautet|ist|est|es)\b"
    r"(?: (?:thus|therefore|then|donc|also|daher))?[ :]{0,3}|[:=])[*_ \t]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_IS_ANSWER = re.compile(
    r" (?:is|are|would be|must be)(?: thus| therefore)? (?:the|my)(?: \w{1,12}){0,2} answers?\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(  # "the answer is simple": what follows is no result
    r"(?:as follows|below|simple|easy|clear|straightforward|obvious|yours|here|given|found|this|"
    r"provided|explained|right|wrong|unknown)\b",
    re.IGNORECASE,
)
_FILLER = re.compile(rf"[\W_]*(?:{FILLER})(?:\b|:|$)", re.IGNORECASE)
_LISTING = re.compile(rf"[\W_]*(?:{LISTING})", re.IGNORECASE)
_CONCLUSION = re.compile(
    rf"^(?:{CONCLUDING})\b|\b(?:{CONCLUSION})\b|"
    r", (?:so|thus|hence) (?:the|it|this|that|s?he|they|its)\b"
    r"|^(?:this|that|the|his|her|its) \w+(?: \w+)? (?:is|was) (?-i:[A-Z])",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|do|does|did|can|could|will|would|should|must|may|might|"
    r"say|says|think|believe|[a-z]{3,}(?:ed|es)|ist|sind|war|est|sont|es|son|era)\b"
)
_ABBREVIATION = re.compile(
    r"\b(?:(?-i:[A-Z])|mr|mrs|ms|dr|st|mt|ft|no|vs|jr|sr|prof|approx|gen|col|lt|ca|e\.g|i\.e|a\.m|"
    r"p\.m)\.$",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:it|this|that)(?:'s|\u2019s| is| was) )?(?P<lead>[^,;:(\u2013\u2014.!?]{1,60}?)\s*"
    r"(?:[.!](?=\s)|[;(\u2013\u2014]| - |, (?:which|who|whose|an?|the|one|two|three|followed|"
    r"released|located|born|after|before|and not|as|because|since|of course|"
    r"[^\W\d]{3,12} (?:years?|days?|ans|jahre|a\u00f1os))\b)"
)


def spoken(answer: str) -> str:
    """The answer without the thoughts of a reasoning model, what it takes back, and the views that
    it rejects; both ends of a very long one."""
    if len(answer) > 2 * LONGEST:
        answer = f"{answer[:LONGEST]}\n\n{answer[-LONGEST:]}"
    for marks in (_THOUGHT, _CORRECTION):
        if places := [match.end() for match in marks.finditer(answer)]:
            rest = answer[places[-1] :]
            takes_back = marks is _THOUGHT or not _CONFIRMED.search(rest)
            answer = rest if re.search(r"\w", rest) and takes_back else answer
    accepted = _without_rejected(answer)
    answer = accepted if re.search(r"\w", accepted) else answer
    return _value_of_json(_without_tables(answer))


def _without_rejected(text: str) -> str:
    """The text without sentences that reject what they say.

    >>> _without_rejected("Many say it is Bonn, but that is wrong. It is Berlin.")
    '  It is Berlin.'
    """
    parts, position, ends = [], 0, None
    for match in _REJECTED.finditer(text):
        if ends is None:
            ends = [end.end() for end in _SENTENCE_END.finditer(text)]
        place = bisect_right(ends, match.start())
        parts.append(text[position : ends[place - 1] if place else 0])
        position = match.end()
    return " ".join([*parts, text[position:]])


def _without_tables(text: str) -> str:
    """The text with a line "first: second: third" for each row of a table of Markdown; without its
    heading, but for one that calls a column "Answer"."""
    if "|" not in text:
        return text
    lines = text.splitlines()
    rules = [bool(_TABLE_RULE.fullmatch(line)) and "|" in line for line in lines]
    written, heading = [], ""
    for i, line in enumerate(lines):
        if rules[i]:
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|") or len(cells) < 2:
            written.append(line)
        elif i + 1 < len(lines) and rules[i + 1]:
            heading = plain(cells[-1]).casefold()
        elif heading in ("answer", "result", "final answer"):
            written.append(f"Answer: {cells[-1]}")
        else:
            written.append(": ".join([*(plain(cell) for cell in cells[:-1]), cells[-1]]))
    return "\n".join(written)


def _value_of_json(answer: str) -> str:
    """The answer in an answer that is a JSON object with one; else the answer itself."""
    if answer.strip()[:1] != "{":
        return answer
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return answer
    for name in ("answer", "final_answer", "result"):
        if isinstance(value := fields.get(name), str | int | float) and not isinstance(value, bool):
            return str(value)
    return answer


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
        if re.search(r"\w", part) and not _NOTHING.match(plain(part)):
            return plain(part)
    for sentence in reversed(sentences_of(text)):
        if (match := _IS_ANSWER.search(sentence)) and not sentence.endswith("?"):
            return plain(sentence[: match.start()])
    return None


def _bold(sentences: Sequence[str], question: str) -> Iterator[Claim]:
    """The parts in bold that may be results: short ones that are no headings, and not words of the
    question."""
    for sentence in sentences:
        for part in _BOLD.findall(sentence):
            heading = part.rstrip().endswith(":") or _HEADING.match(part)
            words = normal(part)
            stems = {word[:5] for word in words.split()}
            asked = question.split()
            repeated = stems <= {w[:5] for w in asked} and "or" not in asked and len(asked) < LONG
            if heading or not words or len(part.split()) > SHORT or repeated:
                continue
            marker = _LISTED.match(sentence)
            yield Claim(plain(part), (marker[0] if marker else "") + plain(sentence))


_LISTED = re.compile(r"[-\u2022*] |\d{1,2}[.)] ")
_HEADING = re.compile(r"\s*(?:step|note|option|important|explanation|reason)\b", re.IGNORECASE)


def _consequence(sentence: str) -> str:
    """What a sentence concludes: "404 is Gone, so it must be 410" ▶ "it must be 410"."""
    *_, consequence = _SO.split(sentence)
    return sentence if _REFERRING.match(consequence) else consequence


_REFERRING = re.compile(r"(?:that|this|it)(?:'s| is| was) the\b", re.IGNORECASE)
_SO = re.compile(
    r",? (?:so|thus|therefore|hence) (?=(?:it|this|that|the answer)\b|"
    r"[^,.]{0,40}\b(?:must be|has to be|costs?|is|are) [^,.]{0,20}(?:\d|[.]?$))",
    re.IGNORECASE,
)


def _leads(sentence: str) -> list[str]:
    """The first phrase of a sentence, if it stands alone, and the one or two words in brackets
    after it: "1990, one year after 1989" ▶ "1990", "N2 (nitrogen)" ▶ "N2" and "nitrogen"."""
    if _LISTED.match(sentence):
        return []
    match = _LEAD.match(plain(sentence))
    if match is None or len(match["lead"].split()) > BARE or _VERB.search(match["lead"]):
        return []
    if _ABBREVIATION.search(f"{match['lead']}."):
        return []  # "Neil A. Armstrong was the first"
    if _ADVERBIAL.match(match["lead"]) and not re.search(r"\d", match["lead"]):
        return []
    if re.match(r"\([^)]*\)\s*\w", plain(sentence)[match.end() - 1 :]):
        return []  # "One kibibyte (KiB) has 1,024 bytes"
    bracket = _IN_BRACKETS.match(plain(sentence)[match.end() - 1 :])
    return [match["lead"], *([bracket[1]] if bracket else [])]


_IN_BRACKETS = re.compile(
    r"\s*\(?([^\W\d]{2,30}(?: \w{1,30})?"
    r"|[^()\s]{0,10}\d[^()\s]{0,20}(?: [^()\s]{1,20}){0,2})\)"
)
_ADVERBIAL = re.compile(
    r"(?:i|we|you|let|by|on|in|at|for|to|from|with|as|during|after|before|if|when|while|today|"
    r"currently|besides|well|yes|no|according|am|im|bei|f\u00fcr|en|pour|por)\b",
    re.IGNORECASE,
)


def _of_first(bold: list[Claim]) -> list[Claim]:
    """The parts in bold of the first sentence that has any, as later ones explain; and of the next
    one after a line in bold, which may be a heading."""
    sentences = list(dict.fromkeys(claim.sentence for claim in bold))
    first = sentences[: 1 + (bold[0].text == bold[0].sentence)]
    return [claim for claim in bold if claim.sentence in first]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, and its lines; of headings only those that hold a colon.

    >>> sentences_of("J. R. R. Tolkien wrote it. In 1937, 3.5 million words!")
    ['J. R. R. Tolkien wrote it.', 'In 1937, 3.5 million words!']
    """
    return list(_sentences(text))


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            if not _INFORMATIVE.match(line):
                continue
            line = line.lstrip("# \t")
        start = 0
        for end in re.finditer(r"[.!?][)*_\"'\u201d]{0,4}(?=\s)", line):
            if _ABBREVIATION.search(line[max(0, end.start() - 8) : end.start() + 1]):
                continue
            if re.fullmatch(r"\W{0,20}\d{1,2}", line[: end.start()]):
                continue  # the number of an item
            if len(end[0]) > 1 and line[end.end() :].lstrip()[:1].islower():
                continue  # click "Forgot password?" on the page
            if re.search(r"\b\d{1,2}$", line[max(0, end.start() - 3) : end.start()]) and (
                line[end.end() :].split()[:1] and line[end.end() :].split()[0].casefold() in NUMBERS
            ):
                continue  # 3. Mai
            if re.search(r"\w", line[start : end.end()]):
                yield line[start : end.end()].strip()
            start = end.end()
        if re.search(r"\w", line[start:]):
            yield line[start:].strip()


_INFORMATIVE = re.compile(
    r"[# \t]{1,10}(?!(?:\*\*)?(?:step|part|option|explanation|question|problem|note|case|example|"
    r"why)\b)"
    r"[^:\n]{1,80}: *\S",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """The text without the signs of Markdown and LaTeX around words."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(
        r"\\[()\[\],;!]|\^\{?\\circ\}?", lambda m: "\u00b0" if "circ" in m[0] else " ", text
    )
    text = re.sub(r"\\(?=[$%&#])", "", text)
    text = text.replace("\\approx", "\u2248").replace("\\times", "\u00d7")
    text = re.sub(r"\[([^\[\]\n]{0,200})\]\([^()\s]{0,500}\)", r"\1", text)  # links
    text = re.sub(r"_\{?(\d{1,3})\}?(?=[A-Za-z$\s.]|$)", r"\1", text)  # H_2O
    text = re.sub(r"^[\s>\u2022*+-]+(?=\s)", "", text)  # bullets
    return re.sub(r"[*`]+|\$(?!\s?\d)|(?<!\w)_+|_+(?!\w)", "", text).strip()
