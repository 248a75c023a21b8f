"""Ask a small model of your own; if it defers, ask a larger one."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.types import Answer, Ask, Decision, Plan, Query


@dataclass(frozen=True)
class Dedicated:
    """Asks `expert`; if its answer begins with one of `tags`, asks the experts of `then` in order.

    The tag never reaches the client: a stream is held back until its beginning is clear. If no
    expert of `then` can be asked, `best_effort` asks `expert` once more with its tags forbidden
    (`bad_words`, which vLLM and the provider `local` support); without `best_effort`, that is an
    error. If `expert` fails, that counts as deferring.
    """

    light: ClassVar[bool] = True

    expert: str
    then: tuple[str, ...]
    tags: tuple[str, ...] = ("<DEFER>", "<GPT4>")
    best_effort: bool = True

    def __post_init__(self) -> None:
        if not self.then or not all(self.tags) or not self.tags:
            raise BadInput(
                "strategy 'dedicated' needs an expert in `then` to defer to, and a text in `tags`"
            )

    def plan(self, query: Query) -> Plan:
        deferred = False
        try:
            answer = yield Ask(self.expert, final=True, unless=self.tags)
            if answer.status == "ok":
                return Decision(answer, because=f"{self.expert} answers itself")
            reason, failure, deferred = f"{self.expert} deferred", None, True
        except (UpstreamError, NotAdmissible) as error:
            reason, failure = f"{self.expert} could not be asked", error
        for expert in self.then:
            try:
                answer = yield Ask(expert, final=True)
                return Decision(answer, because=f"{reason}, {expert} answers")
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
        if deferred and self.best_effort:
            own_answer = yield from self._ask_without_tags()
            if own_answer is not None:
                return Decision(
                    own_answer, because=f"{reason}, no other expert could be asked; best effort"
                )
        assert failure is not None, "a dedicated model needs an expert to defer to"
        raise failure

    def _ask_without_tags(self) -> Generator[Ask, Answer, Answer | None]:
        """Asks the expert again with its tags forbidden; None if it fails or defers again."""
        forbidden = {"bad_words": list(self.tags)}
        try:
            answer = yield Ask(self.expert, final=True, unless=self.tags, options=forbidden)
        except (UpstreamError, NotAdmissible):
            return None
        return answer if answer.status == "ok" else None
