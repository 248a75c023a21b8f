"""Ask one's own model, which answers or defers; where it defers, ask a larger one."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.types import Answer, Ask, Decision, Plan, Query


@dataclass(frozen=True)
class Dedicated:
    """Asks `expert`; where its answer opens with one of `tags`, the first of `then` that can.

    The tag never reaches the client; a stream is held back until its opening is clear. If nobody
    of `then` can be asked, `best_effort` asks `expert` once more with its tags forbidden
    (`bad_words`, which vLLM and provider `local` know); without it, that is an error. An expert
    that fails counts as one that defers.
    """

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
            why, failure, deferred = f"{self.expert} deferred", None, True
        except (UpstreamError, NotAdmissible) as error:
            why, failure = f"{self.expert} could not be asked", error
        for expert in self.then:
            try:
                answer = yield Ask(expert, final=True)
                return Decision(answer, because=f"{why}, {expert} answers")
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
        if deferred and self.best_effort:
            found = yield from self._insist()
            if found is not None:
                return Decision(found, because=f"{why}, nobody else could be asked; best effort")
        assert failure is not None, "somebody must be there to defer to"
        raise failure

    def _insist(self) -> Generator[Ask, Answer, Answer | None]:
        """The expert's own answer after all; None if it cannot or defers again."""
        forbidden = {"bad_words": list(self.tags)}
        try:
            answer = yield Ask(self.expert, final=True, unless=self.tags, options=forbidden)
        except (UpstreamError, NotAdmissible):
            return None
        return answer if answer.status == "ok" else None
