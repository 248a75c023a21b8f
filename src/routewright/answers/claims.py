"""Finds what a chat-style answer claims: "The answer is **Berlin**, not Bonn." claims Berlin.

`claims` gives the parts of an answer that state its result, and `states` tells whether such a part
asserts a phrase. A phrase that is negated ("not Berlin"), offered as one of several ("Bonn or
Berlin"), attributed to others ("many people think it is Bonn"), asked, or only mentioned ("100 km
from Berlin") is not asserted.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LONGEST = 20_000  # characters at either end of an answer that are read
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
    sentences = [s for s in sentences_of(text) if not _FILLER.match(s) and not s.endswith("?")]
    if fences and ((len(fences) == 1 and "\n" not in fences[0]) or not sentences):
        return [Claim(fence, fence) for fence in fences]
    if checked := [plain(s) for s in sentences if _CHECKED.search(s)]:
        return [Claim(part, part) for part in checked]
    if bold := list(_bold(sentences, normal(question))):
        return bold if _LISTED.match(bold[0].sentence) else _of_first(bold)
    if len(sentences) > 1 and _CONCLUSION.search(sentences[-1]):
        sentences = sentences[-1:]
    elif sentences and (leads := _leads(sentences[0])):
        return [Claim(lead, plain(sentences[0])) for lead in leads]
    parts = map(plain, dict.fromkeys((*sentences[:1], *sentences[-1:])))
    return [Claim(_consequence(part), _consequence(part)) for part in parts if part]


# --- parts ---------------------------------------------------------------------------------

_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_CORRECTION = re.compile(
    r"\b(?:correction:|actually,|let me correct|wait,|on second thought|i (?:mixed|misspoke)|"
    r"no, that is wrong)",
    re.IGNORECASE,
)
_CHECKED = re.compile("[\u2705\u2714\u2713]")
_FENCE = re.compile(r"```[a-zA-Z]{0,20}[ \t]*\n([^`]{0,10000})```")
_BOLD = re.compile(r"(?<![\w*])(?:\*\*|__)(?=\S)([^*\n]{1,300})(?:\*\*|__)(?![\w:*])")
_MARK = re.compile(
    r"####[ \t]*"
    r"|^[#>*_ \t]{0,8}(?:final |short |correct )?(?:(?:answer|antwort|r\u00e9ponse|respuesta)"
    r"[*_ \t]{0,8}(?::[*_ \t]{0,8}|$)|(?:result|solution|conclusion)[*_ \t]{0,8}:[*_ \t]{0,8})"
    r"|(?<!long )(?<!detailed )\b(?:answers?|antwort|r\u00e9ponse|respuesta)\b"
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
_FILLER = re.compile(
    r"[\W_]*(?:sure|certainly|of course|great question|good question|absolutely|okay|ok|thanks|"
    r"thank you|i hope|hope (?:this|that)|let me know|feel free|if you (?:have|need|want|would)|"
    r"please (?:let|note)|is there anything|happy to help|note(?: that)?\b|let(?:'|\u2019)?s|tip:|"
    r"here(?:'|\u2019)?s|here (?:is|are)|the (?:options|candidates|choices|possibilities)|"
    r"let me|to (?:answer|solve|find|determine|figure)|"
    r"there are (?:two|three|four|five|six|several|many|various|some)\b[^.:]{0,60}(?=:))(?:\b|:)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"^(?:so|thus|hence|daher|also|donc|por tanto|por lo tanto)\b|\b(?:therefore|consequently|"
    r"in conclusion|(?:has to|must) be|i (?:would |will )?(?:choose|pick|go with)|"
    r"i(?:'|\u2019)(?:d|ll) (?:choose|pick|go with|say)|final answer)\b",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|do|does|did|can|could|will|would|should|must|may|might|"
    r"[a-z]{3,}(?:ed|es)|ist|sind|war|est|sont|es|son|era)\b"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:(?-i:[A-Z])|mr|mrs|ms|dr|st|mt|ft|no|vs|jr|sr|prof|approx|gen|col|lt|ca|e\.g|i\.e|a\.m|p\.m))\.$",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:it|this|that)(?:'s|\u2019s| is| was) )?(?P<lead>[^,;:(\u2013\u2014.!?]{1,60}?)\s*"
    r"(?:[.!](?=\s)|[;(\u2013\u2014]| - |, (?:which|who|whose|an?|the|one|two|three|followed|"
    r"released|located|born|after|before|and not|as|because|since|of course|"
    r"[^\W\d]{3,12} (?:years?|days?|ans|jahre|a\u00f1os))\b)"
)


def spoken(answer: str) -> str:
    """The answer without the thoughts of a reasoning model and what it takes back; both ends of a
    very long one."""
    if len(answer) > 2 * LONGEST:
        answer = f"{answer[:LONGEST]}\n\n{answer[-LONGEST:]}"
    for marks in (_THOUGHT, _CORRECTION):
        if places := [match.end() for match in marks.finditer(answer)]:
            rest = answer[places[-1] :]
            answer = rest if re.search(r"\w", rest) else answer
    return _value_of_json(answer)


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
    return _SO.split(sentence)[-1]


_SO = re.compile(
    r",? (?:so|thus|therefore|hence) (?=(?:it|this|that|the answer)\b|"
    r"[^,.]{0,40}\b(?:must be|has to be|costs?|is|are) [^,.]{0,20}(?:\d|[.]?$))",
    re.IGNORECASE,
)


def _leads(sentence: str) -> list[str]:
    """The first phrase of a sentence, if it stands alone, and the one or two words in brackets
    after it: "1990, one year after 1989" ▶ "1990", "N2 (nitrogen)" ▶ "N2" and "nitrogen"."""
    match = _LEAD.match(plain(sentence))
    if match is None or len(match["lead"].split()) > BARE or _VERB.search(match["lead"]):
        return []
    if _ADVERBIAL.match(match["lead"]) and not re.search(r"\d", match["lead"]):
        return []
    if re.match(r"\([^)]*\)\s*\w", plain(sentence)[match.end() - 1 :]):
        return []  # "One kibibyte (KiB) has 1,024 bytes"
    bracket = re.match(r"\s*\(?([^\W\d]{2,30}(?: \w{1,30})?)\)", plain(sentence)[match.end() - 1 :])
    return [match["lead"], *([bracket[1]] if bracket else [])]


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
            if re.search(r"\w", line[start : end.end()]):
                yield line[start : end.end()].strip()
            start = end.end()
        if re.search(r"\w", line[start:]):
            yield line[start:].strip()


def plain(text: str) -> str:
    """The text without the signs of Markdown and LaTeX around words."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\[([^\[\]\n]{0,200})\]\([^()\s]{0,500}\)", r"\1", text)  # links
    text = re.sub(r"_\{?(\d{1,3})\}?(?=[A-Za-z$\s.]|$)", r"\1", text)  # H_2O
    text = re.sub(r"^[\s>\u2022*+-]+(?=\s)", "", text)  # bullets
    return re.sub(r"[*`]+|\$(?!\s?\d)|(?<!\w)_+|_+(?!\w)", "", text).strip()


# --- assertions ----------------------------------------------------------------------------

_NOT_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|isnt|wasnt|arent|werent|doesnt|dont|didnt|cannot|cant|without|"
    r"except|unlike|rather than|instead of|other than|opposed to|confused with|mistaken for|"
    r"(?:might|could|may|can) (?:also )?(?:be|have been)|perhaps|maybe|possibly|tempting|"
    r"might expect|might think|if it (?:was|were|is)|rule[ds]? out|excludes?|eliminates?|both|"
    r"nicht|kein|keine|weder|vielleicht|k\u00f6nnte|pas|ni|soit|peut etre|pourrait|"
    r"no es|quiza|quizas|podria|en lugar de|statt|au lieu de)\b"
)
_MENTIONED = re.compile(  # what stands directly before a phrase that is only mentioned
    r"(?:\bthan|\bfollowed by|\brival of|\bcompared (?:with|to)(?: that of)?|\breverse of|"
    r"\b(?:differs?|different|differed) from|\b(?:km|kilometers|kilometres|miles|hours) from|"
    r"\b(?:years?|days?|months?|ans|jahre) (?:after|before|apres|nach|vor)|\bbesides|\brelated|"
    r"\btogether with|\bcorresponds to|\bminus|\bthat of|\bovertaken|\bbeat|\bdefeated|"
    r"\bdefeating|\bto give|(?:^| )no|\bcompared with|\bgegen|\breleased with|\bafter|\bbefore)$"
)
_APPOSITION = re.compile(r"\w+(?: \w+)? (?:of|de|von)$")  # ", a friend of Franz Kafka"
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
    r"guess|expect|say|confuse|confused|mistake|mistaken|called)\b"
)
_CLAUSE = re.compile(
    r"[;:()\u2014\u2013]|,(?!\d)|\s-\s|\b(?:but|however|whereas|although|though|while|yet|aber|"
    r"sondern|mais|pero|sino)\b"
)
_OR = frozenset({"or", "oder", "ou"})
_EITHER = re.compile(r"\b(?:either|whether|entweder)\b")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_MONTHS = (
    "january february march april may june july august september october november december".split()
)
_MONTH = re.compile(rf"\b(?:{'|'.join(_MONTHS)})(?= \d|$)|(?<=\d )\b(?:{'|'.join(_MONTHS)})\b")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_TIME = re.compile(r"\b(\d{1,2})(?:[:.h]([0-5]\d))?\s?(?:(a|p)\.?m\b\.?|uhr\b)?", re.IGNORECASE)
_WORDS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * ten
    for ten, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000}
_NUMERAL = re.compile(
    rf"\b(?:{'|'.join([*_WORDS])})(?:(?:[ -]|,? and )(?:{'|'.join([*_WORDS, *_SCALES])}))*\b",
    re.IGNORECASE,
)


def with_digits(text: str) -> str:
    """The text with numbers in digits; a lone "one" may be a word.

    >>> with_digits("Four hundred and seventy-five, or one of nineteen eighty-nine")
    '475, or one of 1989'
    """
    return re.sub(r"(\d) and a half\b", r"\1.5", _NUMERAL.sub(_digits, text))


def _digits(match: re.Match[str]) -> str:
    words = [w for w in re.split(r"[\s,-]+|\band\b", match[0].casefold()) if w]
    if words == ["one"] and match[0] != match.string.strip(" ."):
        return match[0]
    total = group = 0
    previous = 100
    for word in words:
        if word == "hundred":
            group = max(group, 1) * 100
            previous = 100
        elif word == "thousand":
            total, group, previous = total + max(group, 1) * 1000, 0, 100
        else:
            value = _WORDS[word]
            if value >= 10 and 10 <= previous < 100:  # nineteen eighty-nine
                group *= 100
            group, previous = group + value, value
    return str(total + group)


def normal(text: str) -> str:
    """The text for comparing phrases: lower case, without accents, punctuation and articles.

    >>> normal("The São-Paulo's “seven” U.S. hills!")
    'sao paulo 7 us hills'
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"['\u2019]s\b", "", text).replace("'", "").replace("\u2019", "")
    text = re.sub(r"\b([^\W\d])\.(?=[^\W\d]\b)", r"\1", text)  # u.s. is us
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", with_digits(text))
    text = re.sub(r"(?<=\w{3})is(?=ation|e\b|ed\b|ing\b)", "iz", text)  # British spelling
    text = re.sub(r"\bv(?=\d)|(?<!\d)\.(?!\w)|(?<!\w)\.|\.(?!\d|\w)", " ", text)
    text = re.sub(r"(?<!\w)-(?=\d)", "\u2212", text)  # a sign, no hyphen
    text = re.sub(r"[^\w\s.%+\u2212]|_", " ", text)
    text = " ".join(_ARTICLE.sub(" ", text).split())
    return re.sub(r"(?<=\b[^\W\d]) (?=[^\W\d]\b)", "", text)  # j r r is jrr


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
    expected, text = normal(phrase), normal(part)
    if not expected:
        return False
    if (durations := _durations(phrase)) and re.search(r"\d[^\d.]+\d", expected):
        return bool(durations & _durations(part))
    if _MONTH.search(expected):
        return _date(phrase) <= _date(part) and not re.search(r"\d (?:or|oder|ou) \d", part)
    if times := times_in(phrase):
        return "".join(times) in "".join(times_in(part))
    pattern = _phrase(expected, phrase)
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


def without_quotes(part: str, phrase: str = "") -> str:
    """A part of an answer without what it quotes, but for quotes of the phrase."""
    return _QUOTED.sub(lambda m: m[0] if phrase and normal(phrase) in normal(m[0]) else " ", part)


_ASIDE = re.compile(r"\((?:or|also|aka|i\.e\.)\s[^()]{0,80}\)", re.IGNORECASE)
_QUOTED = re.compile(r"[\"\u201c\u201e][^\"\u201c\u201d\n]{1,80}[\"\u201d\u201c]")
_DURATION = re.compile(
    r"(?:(\d{1,4}(?:\.\d{1,4})?)( and a half)?\s?(?:h|hours?|hrs?|stunden?)\b"
    r"(?:,? (?:and )?|(?=\d))?)?"
    r"(?:(\d{1,4}(?:\.\d{1,4})?)\s?(?:m|min|mins|minutes?|minuten)\b)?",
    re.IGNORECASE,
)


def _durations(text: str) -> set[float]:
    """The times in a text such as "2 h 30 min", "2.5 hours" or "150 minutes", in minutes."""
    return {
        60 * (float(m[1] or 0) + 0.5 * bool(m[2])) + float(m[3] or 0)
        for m in _DURATION.finditer(with_digits(text))
        if m[1] or m[3]
    }


def _is_aside(before: str, after: str, pieces: Sequence[str], i: int, question: str) -> bool:
    """Whether the phrase is the subject of a clause that says less of what was asked than another:
    "Louis Pasteur discovered it, and Alexander Fleming got the prize"."""
    if before.strip() not in ("", "and", "und", "et", "y") or len(after.split()) < 2:
        return False
    asked = {word for word in normal(question).split() if len(word) > 3}
    shares = [len(asked & set(piece.split())) for piece in pieces]
    others = [n for j, n in enumerate(shares) if j != i and not _NOT_BEFORE.search(pieces[j])]
    return max(others, default=0) > shares[i]


def _phrase(words: str, phrase: str) -> re.Pattern[str]:
    """Matches the words of a phrase; with digits or signs, whatever separates them: "E-204" and
    "E204", "Ctrl+K" and "Ctrl + K"."""
    runs = re.findall(r"[^\W\d_]+|\d+", words)
    if re.search(r"[\d+/#-]", phrase) and 1 < len(runs) < 12 and not re.search(r"\d[.]\d", words):
        return re.compile(rf"(?<![\w\u2212]){r'[ +.-]{0,3}'.join(runs)}(?![\w%]|\.\d)")
    plural = "(?:e?s)?" if re.search(r"[^\W\d_]{3}$", words) else ""
    if re.search(r"[^\W\d_]{4}(?:on|um)$", words):  # mitochondrion, bacterium
        words, plural = words[:-2], f"(?:{words[-2:]}s?|a)"
    return re.compile(rf"(?<![\w\u2212])(?<!\d\.){re.escape(words)}{plural}(?![\w%]|\.\d)")


def _date(text: str) -> set[str]:
    """The parts of a date in a text: its month, and numbers without the endings of 4th or 2nd."""
    text = _ISO_DATE.sub(lambda m: f"{int(m[3])} {_month(int(m[2]))} {m[1]}", text)
    words = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", normal(text)).split()
    return {word[:3] if _MONTH.fullmatch(word) else word for word in words} - {"of", "on", "in"}


def _month(number: int) -> str:
    return _MONTHS[number - 1] if 1 <= number <= 12 else str(number)


def times_in(text: str) -> list[str]:
    """The times of day in a text, each as "hh:mm;", in their order."""
    return [_clock(match) for match in _TIME.finditer(text) if match[2] or match[3]]


def _clock(time: re.Match[str]) -> str:
    hour = int(time[1])
    if time[3]:
        hour = hour % 12 + 12 * (time[3].casefold() == "p")
    return f"{hour:02}:{time[2] or '00'};"


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
