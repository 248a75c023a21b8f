"""`POST /v1/feedback`: writes the score of a decision as a line of an outcome table."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.data import rows
from routewright.data.journal import Journal
from routewright.errors import BadInput
from routewright.gateway.body import Share, read, validated
from routewright.gateway.errors import BadRequest
from routewright.types import Decision, Query

log = logging.getLogger(__name__)

MAX_DECISIONS = 10_000  # that can still be scored; the oldest are dropped first
MAX_TEXT = 1 << 27  # characters of their texts, which may contain images


class Score(BaseModel):
    """The body of a feedback request."""

    model_config = ConfigDict(extra="forbid")

    decision_id: Annotated[str, Field(min_length=1)]
    score: Share


class Feedback:
    """The decisions that can still be scored, and the file of those that have been scored.

    A decision is in memory until it is scored or dropped. Only scored decisions are written to
    disk, each with the text of its query (and of its answer, with `answers`), in the long form
    that `outcomes.read` reads. Raises BadInput if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        max_decisions: int = MAX_DECISIONS,
        max_text: int = MAX_TEXT,
        answers: bool = False,
    ) -> None:
        if path.exists() and not path.is_file():  # to open a pipe would wait for its reader
            raise BadInput(f"server.feedback: '{path}' is not a regular file: name another one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only the owner may read the texts of queries.
            os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(f"server.feedback: '{path}' cannot be written: {reason}") from error
        self.journal = Journal(path)
        self._scored_ids = {str(line.get("id")) for line in self.journal.entries}
        self.journal.entries.clear()
        self._lines: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.answers = answers
        self._max_decisions = max_decisions
        self._max_text = max_text
        self._text = 0  # characters in memory

    def remember(self, decision_id: str, policy: str, query: Query, decision: Decision) -> None:
        """Keeps a decision in memory, so that it can be scored; may drop the oldest ones."""
        answer = decision.answer
        cells = rows.flat(rows.row(replace(query, id=decision_id)))
        text = answer.content or None if self.answers else None
        self._lines[decision_id] = {
            **{name: cell for name, cell in cells.items() if cell is not None},
            "data_class": query.data_class,  # also if public: readers have defaults of their own
            **({} if text is None else {"text": text}),
            "split": "train",
            "policy": policy,
            "expert": answer.expert,
            "cost": answer.cost,
            "latency": answer.latency if math.isfinite(answer.latency) else None,
            "out_tokens": answer.output_tokens,
        }
        self._text += _length(self._lines[decision_id])
        while len(self._lines) > self._max_decisions or self._text > self._max_text:
            _, oldest = self._lines.popitem(last=False)
            self._text -= _length(oldest)

    def score(self, decision_id: str, score: float) -> dict[str, Any]:
        """Writes the line of a scored decision to disk and returns it. May block.

        Raises BadRequest if the decision cannot be scored, or if the line cannot be written.
        """
        if decision_id in self._scored_ids:
            message = f"decision '{decision_id[:100]}' has been scored already"
            raise BadRequest(message, "decision_id", status=409, code="already_scored")
        line = self._lines.pop(decision_id, None)
        if line is None:
            raise BadRequest(
                f"decision '{decision_id[:100]}' is unknown: send the id of the header"
                " x-routewright-decision-id before the gateway is restarted"
                f" or {self._max_decisions} other decisions have been made",
                "decision_id",
                status=404,
                code="decision_not_found",
            )
        scored_line = {**line, "score": score, "scored": round(time.time(), 3)}
        try:
            self.journal.write(**scored_line)
        except BadInput as error:
            self._lines[decision_id] = line
            # The client does not see this message, which contains paths.
            log.error("a score could not be written: %s", error)
            message = "the score could not be written, the gateway's log says why: send it again"
            raise BadRequest(message, status=503, code="not_written") from error
        self._text -= _length(line)
        self._scored_ids.add(decision_id)
        return scored_line


def _length(line: Mapping[str, Any]) -> int:
    return sum(len(line.get(name, "")) for name in ("prompt", "messages", "options", "text"))


async def feedback(request: Request) -> Response:
    """Scores a decision; 404 if the gateway has neither a store nor `server.feedback`."""
    services = request.state.services
    if services.feedback is None and services.records.store is None:
        message = (
            "this gateway keeps nothing: set `server.store` or `server.feedback` in the config"
        )
        raise BadRequest(message, status=404, code="no_feedback")
    rating = await read(request, services.config.server.max_body_bytes, validated(Score))
    key = request.state.key
    await services.records.settled()  # the decision may be on its way to the store
    expert = await asyncio.to_thread(_score, services, rating, key.name if key else None)
    reply = {"object": "feedback", "decision_id": rating.decision_id, "score": rating.score}
    return JSONResponse({**reply, "expert": expert})


def _score(services: Any, rating: Score, key: str | None) -> str | None:
    """Writes a score into the file and the store, as far as they are configured."""
    expert: str | None = None
    if services.feedback is not None:
        try:
            expert = services.feedback.score(rating.decision_id, rating.score)["expert"]
        except BadRequest as error:
            if error.code != "decision_not_found" or services.records.store is None:
                raise
    if services.records.store is not None:
        try:
            expert = services.records.score(rating.decision_id, rating.score, key)
        except BadRequest:
            if expert is None:
                raise
    return expert
