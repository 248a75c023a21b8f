"""Writes texts in one form, so that phrases can be compared: case, accents, numerals, spellings."""

from __future__ import annotations

import re
import unicodedata

_ARTICLE = re.compile(r"\b(?:an|the)\b|\ba\b(?= \w\w)")  # vitamin A is no article
_COUNTRY = re.compile(r"\bU\.?S\.?(?:A\b\.?|\b\.?)|\bUnited States(?: of America)?\b")
ALIASES = {  # words in their usual short form
    "united kingdom": "uk",
    "united nations": "un",
    "european union": "eu",
    "percent": "%",
    "per cent": "%",
    "saint": "st",
    "mount": "mt",
    "fort": "ft",
    "versus": "vs",
    "street": "st",
    "okay": "ok",
}
_ALIAS = re.compile(rf"\b(?:{'|'.join(ALIASES)})\b")
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth".split()
)
_ORDINAL = re.compile(rf"\b(?:(twenty|thirty)[ -])?({'|'.join(ORDINALS[1:])})\b")
ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx".split()
_ROMAN = re.compile(rf"(?<=[a-z] )(?:{'|'.join(n for n in ROMAN if len(n) > 1)})\b")
UMLAUTS = str.maketrans(
    {"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue", "\u00f8": "oe", "\u00e5": "aa"}
)
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
    text = re.sub(r"\ban? (?=hundred\b|thousand\b)", "one ", text, flags=re.IGNORECASE)
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


_STROKES = str.maketrans(  # letters that Unicode does not take apart into a letter and its accent
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)


def normal(text: str) -> str:
    """The text for comparing phrases: lower case, without accents, punctuation and articles.

    >>> normal("The São-Paulo's “seven” U.S. hills!")
    'sao paulo 7 usa hills'
    """
    text = _COUNTRY.sub("USA", unicodedata.normalize("NFKC", text))
    text = text.casefold().replace("\u2212", "-").replace("&", " and ")
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c)).translate(_STROKES)
    text = re.sub(r"['\u2019]s\b", "", text).replace("'", "").replace("\u2019", "")
    text = re.sub(r"\b([^\W\d])\.(?=[^\W\d]\b)", r"\1", text)  # u.s. is us
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", with_digits(_ORDINAL.sub(_nth, text)))
    text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", text)
    text = re.sub(r"(?<=\w{3})is(?=ation|e\b|ed\b|ing\b)", "iz", text)  # British spelling
    text = re.sub(r"\bv(?=\d)|(?<!\d)\.(?!\w)|(?<!\w)\.|\.(?!\d|\w)", " ", text)
    text = re.sub(r"(?<!\w)-(?=\d)", "\u2212", text)  # a sign, no hyphen
    text = re.sub(r"[^\w\s.%+#\u2212]|_|(?<!\w)#", " ", text)
    text = re.sub(r"(?<=\d) (?:to|bis|a|through) (?=\d)", " ", text)  # 3 to 5 is 3-5
    text = " ".join(_ARTICLE.sub(" ", text).split())
    text = _ROMAN.sub(lambda m: str(ROMAN.index(m[0]) + 1), text)
    text = re.sub(r"(?<=\d) %", "%", _ALIAS.sub(lambda m: ALIASES[m[0]], text))
    return re.sub(r"(?<=\b[^\W\d]) (?=[^\W\d]\b)", "", text)  # j r r is jrr


def _nth(match: re.Match[str]) -> str:
    tens = {"twenty": 20, "thirty": 30}.get(match[1] or "", 0)
    return f"{tens + ORDINALS.index(match[2])}th"


def pattern_of(phrase: str) -> re.Pattern[str]:
    """Matches a phrase in a text as `normal` writes it.

    It may be spelt in one word, in the singular or plural, and with "ae" for "\u00e4"; if it has
    digits or signs, whatever separates them: "E-204" and "E204", "Ctrl+K" and "Ctrl + K".
    """
    words = normal(phrase)
    runs = re.findall(r"[^\W\d_]+|\d+", words)
    if re.search(r"[\d+/#-]", phrase) and 1 < len(runs) < 12 and not re.search(r"\d[.]\d", words):
        body = r"[ +.-]{0,3}".join(runs)
    else:
        spellings = dict.fromkeys((words, normal(phrase.lower().translate(UMLAUTS))))
        body = "|".join(_inflected(spelling) for spelling in spellings)
    return re.compile(rf"(?<![\w\u2212])(?<!\d\.)(?:{body})(?![\w%#]|\+\+|\.\d)")


def _inflected(words: str) -> str:
    """A pattern of words in the singular or plural, written in one word or several."""
    ending = ""
    for form, endings in ENDINGS.items():
        if match := form.search(words):
            words, ending = words[: match.start(1)], endings.replace("*", match[1])
            break
    return re.escape(words).replace("\\ ", " ?") + ending


ENDINGS = {  # how words end ▶ how they may end; "*" is what stands in the brackets
    re.compile(r"[^\W\d_]{4}(on|um)$"): "(?:*s?|a)",  # mitochondrion, bacterium
    re.compile(r"[^\W\d_]{3}(ies|y)$"): "(?:y|ies|ys)",
    re.compile(r"[^\W\d_]{2}[^\W\d_sui](s)$"): "s?",
    re.compile(r"[^\W\d_]{3}()$"): "(?:e?s)?",
}
