"""`POST /v1/feedback`: a score for a decision, kept as a line of an outcome table."""

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

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.data import rows
from routewright.data.journal import Journal
from routewright.errors import BadInput
from routewright.gateway.body import number, read, shown
from routewright.gateway.errors import BadRequest
from routewright.types import Decision, Query

log = logging.getLogger(__name__)

REMEMBERED = 10_000  # decisions that may still be scored; the oldest are forgotten first
REMEMBERED_TEXT = 1 << 27  # characters of their texts: pictures are long


class Score(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")

    decision_id: Annotated[str, Field(min_length=1)]
    score: Annotated[float, BeforeValidator(number), Field(ge=0, le=1, allow_inf_nan=False)]


class Feedback:
    """Decisions that may still be scored, and the file of those that were.

    A decision is in memory until it is scored or forgotten; only what is scored goes to disk,
    with the text of its query (and of its answer, with `answers`), in the long form that
    `outcomes.read` takes.
    """

    def __init__(
        self,
        path: Path,
        remembered: int = REMEMBERED,
        remembered_text: int = REMEMBERED_TEXT,
        answers: bool = False,
    ) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Texts of queries are for one user.
            os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise BadInput(f"server.feedback: '{path}' cannot be written: {why}") from error
        if not path.is_file():
            raise BadInput(f"server.feedback: '{path}' is not a file that can be read again")
        self.journal = Journal(path)
        self._scored = {str(line.get("id")) for line in self.journal.entries}
        self.journal.entries.clear()
        self._open: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._answers = answers
        self._remembered = remembered
        self._remembered_text = remembered_text
        self._text = 0  # characters in memory

    def remember(self, decision_id: str, policy: str, query: Query, decision: Decision) -> None:
        answer = decision.answer
        asked = rows.flat(rows.row(replace(query, id=decision_id)))
        text = answer.text or None if self._answers else None
        self._open[decision_id] = {
            **{name: cell for name, cell in asked.items() if cell is not None},
            **({} if text is None else {"text": text}),
            "split": "train",
            "policy": policy,
            "expert": answer.expert,
            "cost": answer.cost,
            "latency": answer.latency if math.isfinite(answer.latency) else None,
            "out_tokens": answer.output_tokens,
        }
        self._text += _length(self._open[decision_id])
        while len(self._open) > self._remembered or self._text > self._remembered_text:
            _, forgotten = self._open.popitem(last=False)
            self._text -= _length(forgotten)

    def take(self, decision_id: str, score: float) -> dict[str, Any]:
        """Writes the line and gives it; raises BadRequest for a decision that cannot be scored,
        or not now. May block: the line is on disk afterwards."""
        if decision_id in self._scored:
            what = f"decision '{decision_id[:100]}' has been scored already"
            raise BadRequest(what, "decision_id", status=409, code="already_scored")
        line = self._open.pop(decision_id, None)
        if line is None:
            raise BadRequest(
                f"decision '{decision_id[:100]}' is not known: its id stands in the header"
                " x-routewright-decision-id, and it can be scored until the gateway is restarted"
                f" or {self._remembered} others have been made",
                "decision_id",
                status=404,
                code="decision_not_found",
            )
        scored = {**line, "score": score, "scored": round(time.time(), 3)}
        try:
            self.journal.write(**scored)
        except BadInput as error:
            self._open[decision_id] = line
            log.error("a score was lost: %s", error)  # our paths are no client's business
            what = "the score could not be written, the gateway's log says why: send it again"
            raise BadRequest(what, status=503, code="not_written") from error
        self._text -= _length(line)
        self._scored.add(decision_id)
        return scored


def _length(line: Mapping[str, Any]) -> int:
    return sum(len(line.get(name, "")) for name in ("prompt", "messages", "options", "text"))


async def feedback(request: Request) -> Response:
    services = request.app.state.services
    if services.feedback is None:
        message = "no feedback is kept here: set `server.feedback` in the config"
        raise BadRequest(message, status=404, code="no_feedback")
    body = await read(request, services.config.server.max_body_bytes)
    try:
        given = Score.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        why = f"{field} ({shown(first['input'])}): {first['msg']}"
        raise BadRequest(why, field) from error
    kept = await asyncio.to_thread(services.feedback.take, given.decision_id, given.score)
    told = {"object": "feedback", "decision_id": given.decision_id, "score": given.score}
    return JSONResponse({**told, "expert": kept["expert"]})
