"""What is kept of responses, so that later requests may continue them or read them again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from routewright.errors import BadInput
from routewright.experts.limits import strictest
from routewright.gateway.body import ChatRequest
from routewright.gateway.budgets import DAY
from routewright.gateway.errors import BadRequest
from routewright.gateway.middleware import token_of
from routewright.gateway.records import VERDICT_SECONDS
from routewright.gateway.replies import ReplyFormat
from routewright.gateway.responses.messages import REFERENCE, kind_of
from routewright.gateway.responses.reply import ResponsesReply
from routewright.gateway.responses.request import ResponsesRequest, continued, marked
from routewright.gateway.services import Services
from routewright.records import responses
from routewright.records.responses import Turn
from routewright.records.store import Store
from routewright.types import Query

NOT_FOUND = "there is no such response: it may have expired, or been deleted or not stored"
NO_ITEM = "there is no such item: it may have expired, or been deleted or not stored"
NO_STORE = "this gateway stores no responses: send all items as `input`"
TOO_LONG = "the conversation is too long to be continued: send what matters of it as `input`"
PREVIOUS = "previous_response_id"

log = logging.getLogger(__name__)
T = TypeVar("T")


class ResponsesMemory:
    """The responses of one client. Only the key that made a response may continue it."""

    def __init__(self, services: Services, owner: str) -> None:
        self.services, self.owner = services, owner

    # --- requests -----------------------------------------------------------------------------

    async def recall(self, request: ChatRequest) -> ChatRequest:
        """The request with the items that it continues or refers to; raises BadRequest."""
        assert isinstance(request, ResponsesRequest)
        turns = await self._chain(request.previous)
        places = await self._references(request.references)
        query = request.query
        items = [self._resolved(item, places) for item in request.items]
        history = [item for turn in turns for item in (*turn.input, *_made(turn))]
        if history or items != list(request.items):
            model = request.model
            request = await asyncio.to_thread(continued, request, items, history)
            request = replace(request, model=model)
        older = [*turns, *(turn for _, turn in places.values())]
        request = replace(request, query=_within(request.query, query, older))
        raised = request.query.data_class != query.data_class
        return replace(request, has_data_class=request.has_data_class or raised)

    def reply(self, decision: str, request: ChatRequest) -> ResponsesReply:
        """The writer of the reply, which says whether it is stored."""
        assert isinstance(request, ResponsesRequest)
        return ResponsesReply(decision, replace(request, keeps=self._keeps(request)))

    def _resolved(
        self, item: Mapping[str, Any], places: Mapping[str, tuple[Mapping[str, Any], Turn]]
    ) -> Mapping[str, Any]:
        """An item of the input: what it refers to, and reasoning with the expert that made it."""
        if kind_of(item) == REFERENCE:
            item, turn = places[item["id"]]
            return marked(item, turn.expert)
        if kind_of(item) != "reasoning":
            return item
        secret = item.get("encrypted_content")
        maker = self.services.makers.of(secret) if isinstance(secret, str) else None
        return marked(item, maker or self._only_expert())

    def _only_expert(self) -> str | None:
        """The expert that speaks Responses, if there is but one: reasoning can only be its own."""
        client = self.services.client
        names = [name for name in self.services.experts if client.speaks(name) == "responses"]
        return names[0] if len(names) == 1 else None

    def _keeps(self, request: ResponsesRequest) -> bool:
        """Whether the response may be stored, and shall be."""
        server = self.services.config.server
        is_allowed = request.query.data_class != "restricted" or server.records.restricted == "full"
        has_store = self.services.records.store is not None and server.responses.store
        return has_store and is_allowed and request.body.get("store") is not False

    async def _chain(self, name: str | None) -> list[Turn]:
        if name is None:
            return []
        store, most = self._store(PREVIOUS), self.services.config.server.max_body_bytes
        try:
            return await self._read(store, responses.chain, name, self.owner, time.time(), most)
        except responses.Unknown:
            raise BadRequest(
                NOT_FOUND, PREVIOUS, status=404, code="previous_response_not_found"
            ) from None
        except responses.TooLong:
            raise BadRequest(TOO_LONG, PREVIOUS, code="context_length_exceeded") from None

    async def _references(self, names: Sequence[str]) -> dict[str, tuple[Mapping[str, Any], Turn]]:
        if not names:
            return {}
        store = self._store("input")
        places = await self._read(store, responses.items, names, self.owner, time.time())
        if set(names) - places.keys():
            raise BadRequest(NO_ITEM, "input", status=404, code="item_not_found")
        return places

    def _store(self, field: str) -> Store:
        """The store; raises BadRequest if nothing is kept."""
        store = self.services.records.store
        if store is None:
            raise BadRequest(NO_STORE, field, code="no_store")
        return store

    # --- responses ----------------------------------------------------------------------------

    async def find(self, name: str) -> Turn:
        """A stored response; raises BadRequest (404)."""
        return await self._one(responses.find, name)

    async def input_items(self, name: str) -> list[Mapping[str, Any]]:
        """The items that a stored response answered, those of earlier turns included."""
        turn, older = await self.find(name), []
        if turn.previous is not None:
            older = await self._chain(turn.previous)
        return [*(item for one in older for item in (*one.input, *one.output)), *turn.input]

    async def remove(self, name: str) -> None:
        """Deletes a stored response; raises BadRequest (404)."""
        await self._one(responses.remove, name, writes=True)

    async def _one(self, function: Callable[..., T], name: str, writes: bool = False) -> T:
        store = self.services.records.store
        try:
            if store is None:
                raise responses.Unknown
            return await self._read(store, function, name, self.owner, time.time(), writes=writes)
        except responses.Unknown:
            raise BadRequest(
                NOT_FOUND, "response_id", status=404, code="response_not_found"
            ) from None

    async def keep(self, reply: ReplyFormat, session: str | None) -> None:
        """Stores a response, if it shall be; the log says why if that fails."""
        assert isinstance(reply, ResponsesReply)
        assert reply.final is not None, "it is kept once it is whole"
        output = reply.final.get("output") or []
        self.services.makers.remember(_secrets(output), reply.final["model"])
        if not reply.request.keeps:
            return
        store = self._store("store")
        try:
            turn = self._turn(reply, output, session)
            await self._read(store, responses.keep, turn, writes=True)
        except BadRequest:
            log.error("a response could not be stored: no request can continue it")

    def _turn(self, reply: ResponsesReply, output: Sequence[Any], session: str | None) -> Turn:
        request, final = reply.request, reply.final or {}
        now, days = time.time(), self.services.config.server.responses.retention_days
        return Turn(
            id=final["id"],
            owner=self.owner,
            created_at=now,
            expires_at=now + days * DAY,
            previous=request.previous,
            data_class=request.query.data_class,
            region=request.query.region,
            session=session,
            expert=final["model"],
            input=list(request.items),
            output=[item for item in output if isinstance(item, Mapping)],
            response={key: value for key, value in final.items() if key != "output"},
        )

    async def _read(
        self, store: Store, function: Callable[..., T], *arguments: Any, writes: bool = False
    ) -> T:
        """Runs a function with a connection to the store, in a thread; raises BadRequest (503)."""

        def run() -> T:
            with (store.begin if writes else store.read)() as connection:
                return function(connection, *arguments)

        try:
            if self.services.records.state.is_up:
                async with asyncio.timeout(VERDICT_SECONDS):
                    return await asyncio.to_thread(run)
        except (SQLAlchemyError, BadInput, TimeoutError) as error:
            log.error("the store of responses fails (%s)", type(error).__name__)
        message = "the gateway's store cannot be used at the moment: send the request again later"
        raise BadRequest(message, status=503, code="store_unavailable")


def memory_of(request: Request) -> ResponsesMemory:
    """The memory of the client that sends a request."""
    return ResponsesMemory(request.state.services, _owner(request))


def _owner(request: Request) -> str:
    """Who the client is: its key; "" if none is needed, and then everybody is the same."""
    if request.state.key is not None:
        return f"key:{request.state.key.id}"
    if not request.state.services.config.server.api_keys:
        return ""
    return f"token:{_fingerprint(token_of(request.headers))}"


@lru_cache(1024)
def _fingerprint(token: str) -> str:
    """A hash of a configured key, slow because such a key may be short."""
    salt = b"routewright responses"
    return hashlib.scrypt(token.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()


def _within(query: Query, before: Query, turns: Iterable[Turn]) -> Query:
    """The query with the data class and the region of all that it continues.

    Raises BadRequest if they are bound to different regions.
    """
    turns = list(turns)
    data_class = strictest([before.data_class, *(turn.data_class for turn in turns)])
    regions = {turn.region for turn in turns if turn.region is not None}
    regions |= {query.region} if query.region is not None else set()
    if len(regions) > 1:
        names = " and ".join(sorted(regions))
        message = f"one conversation cannot be bound to the regions {names}: begin another one"
        raise BadRequest(message, "region")
    return replace(query, data_class=data_class, region=next(iter(regions), None))


def _made(turn: Turn) -> list[Mapping[str, Any]]:
    """The output of a turn; its reasoning with the expert that made it."""
    return [
        marked(item, turn.expert) if kind_of(item) == "reasoning" else item for item in turn.output
    ]


def _secrets(items: Iterable[Any]) -> list[str]:
    """The encrypted reasoning among output items."""
    fields = [item.get("encrypted_content") for item in items if isinstance(item, Mapping)]
    return [secret for secret in fields if isinstance(secret, str)]
