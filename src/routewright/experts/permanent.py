"""Tells which failures of an expert no waiting ends, why, and what does. Nothing here does I/O."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from routewright.errors import UpstreamError

LONGEST_REASON = 200  # characters of an upstream's words that are repeated


class Cause(NamedTuple):
    """One cause of a lasting failure: the HTTP statuses and the words by which it is known."""

    what: str
    fix: str
    statuses: frozenset[int]  # that always mean it
    words: re.Pattern[str]  # in the code, the type or the text of an error


CAUSES = (
    Cause(
        "its account has no credit left",
        "add credit to the account, raise its limit, or use another key",
        frozenset({402}),
        re.compile(
            r"insufficient[_ ](?:account[_ ])?(?:quota|balance|credits?|funds)|billing[_ ]"
            r"(?:hard[_ ]limit|not[_ ]active)|payment[_ ]required|credit[_ ]limit|more credits"
            r"|exceeded[_ ](?:your[_ ])?current[_ ]quota|credit balance is too low|out of credits"
            r"|no credits|credits? (?:is |are )?(?:exhausted|used up|depleted)"
            r"|used all (?:available|your|of)"
            r"|spend(?:ing)?[_ ]limit|in arrears|arrearage|overdue|not enough (?:credits?|balance)",
            re.IGNORECASE,
        ),
    ),
    Cause(
        "its account is closed",
        "ask the provider, or use the key of another account",
        frozenset(),
        re.compile(
            r"account[_ ](?:is |has been |was )?(?:deactivated|suspended|disabled|terminated|closed"
            r"|not[_ ]active)|access[_ ]terminated|organization[_ ](?:has been )?"
            r"(?:restricted|disabled|deactivated)|user[_ ]deactivated",
            re.IGNORECASE,
        ),
    ),
    Cause(
        "the server does not have its model",
        "correct `model:` or `base_url:` of its entry in the config, which often ends with /v1"
        " (`routewright doctor` finds out)",
        frozenset({404, 410}),
        re.compile(
            r"model[_ ]?not[_ ]?found|(?:invalid|unknown|unsupported)[_ ]model\b|deploymentnotfound"
            r"|model[_ ]not[_ ]exist|models?[ /][`'\"]?[\w./:@-]{1,100}[`'\"]? (?:is |was )?"
            r"(?:does not exist|not found|not a valid)"
            r"|model [`'\"]?[\w./:@-]{1,100}[`'\"]? has been (?:deprecated|decommissioned|retired)"
            r"|not a valid model",
            re.IGNORECASE,
        ),
    ),
    Cause(
        "its key is refused",
        "put a valid key for this address into `api_key:` of its entry in the config",
        frozenset({401, 403}),
        re.compile(
            r"(?:invalid|incorrect|expired|revoked|disabled)[_ ](?:x-)?api[_ -]?key"
            r"|api[_ ]key[_ ](?:is )?(?:not[_ ]valid|invalid|expired|disabled|revoked)"
            r"|invalid[_ ]authentication",
            re.IGNORECASE,
        ),
    ),
)
OF_ACCOUNTS = CAUSES[:2]
# A refusal of what this query holds or needs says nothing about the next query.
OF_THE_QUERY = re.compile(
    r"moderat|flagged|safety|content[_ ](?:filter|policy|blocked)|blocked|guardrail"
    r"|that support|data policy|context[_ ]length",
    re.IGNORECASE,
)
# Gemini says "you exceeded your current quota" of a limit per minute, too.
OF_A_MINUTE = re.compile(r"resource_exhausted|retry (?:in|after)|per[_ ]?(?:minute|second)", re.I)


def explain(error: UpstreamError, patience: float) -> str | None:
    """Why waiting for `patience` seconds cannot end a failure, and the way out, in one sentence;
    None if it may end, or if another query may fare better.

    >>> explain(UpstreamError("a", "HTTP 402: Insufficient Balance", status=402), 60).split(": ")[0]
    'its account has no credit left (HTTP 402'
    >>> explain(UpstreamError("a", "HTTP 503: overloaded", status=503), 60) is None
    True
    """
    if (seconds := error.retry_after or 0.0) > patience:
        return (
            f"it asks for a pause of {duration(seconds)} ({_short(error.reason)}), and a run waits"
            f" at most {duration(patience)}: run the same command again after"
            f" {_clock(time.time() + seconds)}"
        )
    cause = cause_of(error)
    if cause is None:
        return None
    return f"{cause.what} ({_short(error.reason)}): {cause.fix}, and run the same command again"


def cause_of(error: UpstreamError) -> Cause | None:
    """The cause of a failure that lasts; None if it may pass.

    >>> cause_of(UpstreamError("a", "HTTP 429: insufficient_quota", status=429)).what
    'its account has no credit left'
    """
    words = None if (error.status or 0) >= 500 else error.reason  # a proxy may quote anything
    texts = " ".join(text for text in (error.code, error.kind, words) if text)
    if OF_THE_QUERY.search(texts) and error.status not in (401, 402):
        return None
    for cause in CAUSES:
        if error.status not in cause.statuses and not cause.words.search(texts):
            continue
        passes = error.status == 429 and (error.retry_after or OF_A_MINUTE.search(texts))
        if not passes or "insufficient_quota" in texts:
            return cause
    return None


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(7.4), duration(90), duration(3600), duration(86_400)
    ('7 s', '90 s', '60 min', '24 h')
    """
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _clock(moment: float) -> str:
    now, then = time.localtime(), time.localtime(moment)
    return time.strftime("%H:%M" if now[:3] == then[:3] else "%Y-%m-%d %H:%M", then)


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
