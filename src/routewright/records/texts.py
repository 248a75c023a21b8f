"""Takes what names persons out of texts that are kept. Every pattern is linear."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from routewright.types import Message

LONGEST = 200_000  # characters of the texts of a decision that are kept
PATTERNS = {
    "[key]": re.compile(
        r"\b(?:sk|pk|rw|gh[pousr]|xox[abprs]|AKIA|AIza)[-_]?[\w-]{16,200}"
        r"|(?<=Bearer )\S{8,500}|-----BEGIN [A-Z ]{1,40}-----"
    ),
    "[email]": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}"),
    "[address]": re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"),
    "[account]": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
    "[number]": re.compile(r"(?<![\w.])[+(]?\d(?:[ ()/.-]{0,2}\d){7,18}(?!\w)"),
}


def redacted(text: str) -> str:
    """The text without e-mail and IP addresses, keys, and numbers of phones, cards and accounts.

    Names of persons and places stay: no pattern knows them.

    >>> redacted("Write to ada@example.com or call +44 20 7946 0958.")
    'Write to [email] or call [number].'
    """
    for label, pattern in PATTERNS.items():
        text = pattern.sub(label, text)
    return text


def kept(messages: Sequence[Message], answer: str | None, how: str) -> dict[str, Any]:
    """The columns `messages` and `answer` as `how` says: none, redacted or full.

    Parts that are no text, such as images, are never kept; texts over LONGEST characters neither.
    """
    if how == "none":
        return {"messages": None, "answer": None}
    change = redacted if how == "redacted" else str
    texts = [_text_of(message) for message in messages]
    # Before they are changed: that takes long for long texts, and nothing else runs meanwhile.
    if sum(len(text or "") for text in (*texts, answer)) > LONGEST:
        return {"messages": None, "answer": None}
    plain = [
        {"role": clean(str(message.get("role", ""))), "content": _changed(text, change)}
        for message, text in zip(messages, texts, strict=True)
    ]
    return {"messages": plain, "answer": _changed(answer, change)}


def _text_of(message: Message) -> str | None:
    content = message.get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _changed(text: str | None, change: Callable[[str], str]) -> str | None:
    return None if text is None else clean(change(text))


def clean(text: str) -> str:
    """The text as any database can store it: without NUL and half surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
