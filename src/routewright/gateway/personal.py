"""Finds personal data with Presidio, so that a text that holds any gets a stricter data class.

It is only ever raised. Names of persons and places need a model of spaCy, which `server.pii.model`
names; numbers, addresses and accounts are found by patterns and their check sums.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from routewright.config import PiiConfig
from routewright.errors import BadInput, needs
from routewright.types import Message, Query, content_text

LONGEST = 50_000  # characters at each end of a message that are read; the rest of it is not
MOST = 50_000  # messages that are remembered, because conversations repeat theirs


class Detector:
    """Tells whether texts hold personal data. Raises BadInput if it cannot be built."""

    def __init__(self, settings: PiiConfig) -> None:
        self.settings = settings
        self._analyzer = _analyzer(settings)
        self._known: OrderedDict[bytes, bool] = OrderedDict()  # hash of a message ▶ whether it does

    def finds(self, query: Query) -> bool:
        """Whether a message of a query holds personal data. Takes long: for a thread."""
        return any(self._has(_text(message)) for message in reversed(query.messages))

    def _has(self, text: str) -> bool:
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if digest not in self._known:
            self._known[digest] = self._analyse(text)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return self._known[digest]

    def _analyse(self, text: str) -> bool:
        parts = (text,) if len(text) <= 2 * LONGEST else (text[:LONGEST], text[-LONGEST:])
        return any(
            self._analyzer.analyze(
                part,
                language=self.settings.language,
                entities=list(self.settings.entities),
                score_threshold=self.settings.score,
            )
            for part in parts
            if part.strip()
        )


def _text(message: Message) -> str:
    """The texts of a message, those of its tool calls included."""
    calls = message.get("tool_calls")
    arguments = [
        str((call.get("function") or {}).get("arguments") or "")
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
    ]
    return "\n".join([content_text(message), *arguments])


def _analyzer(settings: PiiConfig) -> Any:
    with needs("server.pii"):
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine

    # Whether the end of an address is a domain is told by the list that the package holds: it
    # would fetch another one from the internet.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    language = settings.language
    try:
        model = spacy.load(settings.model) if settings.model else spacy.blank(language)
    except (OSError, ImportError) as error:
        what = f"model '{settings.model}'" if settings.model else f"language '{language}'"
        fix = f"python -m spacy download {settings.model}" if settings.model else "see spacy.io"
        raise BadInput(f"server.pii: spaCy has no {what}: {fix}") from error

    class Engine(SpacyNlpEngine):  # type: ignore[misc]
        """The model that was loaded; Presidio would download one."""

        def __init__(self) -> None:
            super().__init__()
            self.nlp = {language: model}

        def load(self) -> None:
            pass

        def is_loaded(self) -> bool:
            return True

    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    analyzer = AnalyzerEngine(
        registry=registry, nlp_engine=Engine(), supported_languages=[language]
    )
    unknown = set(settings.entities) - set(analyzer.get_supported_entities(language))
    if unknown:
        known = ", ".join(sorted(analyzer.get_supported_entities(language)))
        raise BadInput(f"server.pii.entities: no {', '.join(sorted(unknown))}; there are {known}")
    return analyzer
