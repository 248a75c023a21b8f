"""Random answers, written as server-sent events in every style that upstreams are known for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

TEXT = st.text(st.characters(), max_size=40)  # half surrogate pairs too
NAME = st.text("abcdefgh_", min_size=1, max_size=8)
LEAF = st.none() | st.booleans() | st.integers(-99, 99) | TEXT


def fields(values: Any = LEAF) -> Any:
    """Objects whose keys are those of nobody."""
    return st.dictionaries(NAME.map("x_{}".format), values, max_size=3)


JSON = st.recursive(LEAF, lambda item: st.lists(item, max_size=3) | fields(item), max_leaves=5)


@dataclass(frozen=True)
class Said:
    """An answer, as an upstream means it and a client should get it."""

    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()  # id, name, arguments
    reason: str | None = None  # None: the upstream gives no finish reason
    logprobs: tuple[float, ...] = ()
    usage: tuple[int, int] | None = None
    top: dict[str, Any] = field(default_factory=dict)  # fields that nobody knows
    choice: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)  # of its usage

    @property
    def finish_reason(self) -> str:
        return self.reason or ("tool_calls" if self.calls else "stop")

    def fields_of_usage(self) -> dict[str, Any]:
        assert self.usage is not None
        sent, received = self.usage
        return {"prompt_tokens": sent, "completion_tokens": received, **self.details}


@st.composite
def answers(draw: Any) -> Said:
    calls = draw(st.lists(st.tuples(NAME, fields(JSON)), max_size=3))
    texts = [draw(TEXT) for _ in range(3)]
    if not calls and not any(texts):
        texts[0] = "x"
    return Said(
        *texts,
        calls=tuple((f"call_{i}", name, arguments) for i, (name, arguments) in enumerate(calls)),
        reason=draw(st.sampled_from([None, "stop", "length", "tool_calls", "content_filter"])),
        logprobs=tuple(draw(st.lists(st.floats(-50, 0), max_size=4))),
        usage=draw(st.none() | st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))),
        top=draw(fields(JSON)),
        choice=draw(fields(JSON)),
        message=draw(fields(st.integers(1, 9))),
        details=draw(fields(JSON)),
    )


# --- chunks --------------------------------------------------------------------------------


@st.composite
def pieces(draw: Any, text: str) -> list[str]:
    """A text, cut at random places."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def call_deltas(draw: Any, said: Said) -> list[dict[str, Any]]:
    styles = ["pieces", "repeating", "unnumbered", "whole", "object", "zero", "together"]
    style = draw(st.sampled_from(styles))
    if style in ("pieces", "repeating", "unnumbered"):
        queues = []
        first = draw(st.integers(0, 2))  # some count from 1
        for number, (id, name, arguments) in enumerate(said.calls, first):
            head = {"id": id, "type": "function"}
            parts = draw(pieces(json.dumps(arguments)))
            written = [{"name": name, "arguments": ""}, *({"arguments": part} for part in parts)]
            if style == "repeating":
                written = [{"name": name, **part} for part in written]
            heads = [head] + [head if style == "repeating" else {}] * (len(written) - 1)
            numbers = {} if style == "unnumbered" else {"index": number}
            call = [
                {**head, **numbers, "function": function}
                for head, function in zip(heads, written, strict=True)
            ]
            queues.append(call)
        interleaved = style != "unnumbered" and draw(st.booleans())
        deltas = [{"tool_calls": [queue.pop(0)]} for queue in queues if interleaved]
        while any(queues):
            queue = next(q for q in (draw(st.permutations(queues)) if interleaved else queues) if q)
            deltas.append({"tool_calls": [queue.pop(0)]})
        return deltas
    calls = []
    for id, name, arguments in said.calls:
        text = arguments if style == "object" else json.dumps(arguments)
        call = {"id": id, "type": "function", "function": {"name": name, "arguments": text}}
        calls.append({**call, "index": 0} if style == "zero" else call)
    return [{"tool_calls": calls}] if style == "together" else [{"tool_calls": [c]} for c in calls]


@st.composite
def chunks(draw: Any, said: Said) -> list[dict[str, Any]]:
    """The chunks of a stream, with `[DONE]` where there is one left out."""
    role = draw(st.sampled_from([{}, {"content": ""}, {"content": None}]))
    deltas: list[dict[str, Any]] = [{"role": "assistant", **role}]
    for key in ("reasoning_content", "content", "refusal"):
        text = {"reasoning_content": said.reasoning, "content": said.content}.get(key, said.refusal)
        deltas += [{key: piece} for piece in draw(pieces(text))]
    deltas += draw(call_deltas(said)) if said.calls else []
    always = draw(st.booleans())
    if always:
        deltas = [{"role": "assistant", "content": "", **delta} for delta in deltas]
    unfinished = draw(st.sampled_from([{}, {"finish_reason": None}, {"finish_reason": ""}]))
    choices = [{"index": 0, "delta": delta, **unfinished} for delta in deltas]
    choices[-1]["delta"] = {**choices[-1]["delta"], **said.message}
    for logprob in said.logprobs:
        choice = draw(st.sampled_from(choices))
        tokens = choice.setdefault("logprobs", {"content": []})["content"]
        tokens.append({"token": "x", "logprob": logprob})
    if said.reason:
        _finish(draw, choices, said.reason)
    choices[draw(st.integers(0, len(choices) - 1))].update(said.choice)
    result = [{"object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    result[draw(st.integers(0, len(result) - 1))].update(said.top)
    if said.usage:
        _count(draw, result, said)
    for noise in draw(st.lists(st.sampled_from(NOISE), max_size=3)):
        result.insert(draw(st.integers(1, len(result))), noise)
    return result


NOISE: list[dict[str, Any]] = [
    {"choices": []},
    {"choices": None},
    {"type": "ping"},
    {"choices": [], "usage": None, "error": None},
    {"choices": [{"index": 0, "delta": None}]},
    {"choices": [{"index": 0, "delta": {}}]},
    {"choices": [{"index": 1, "delta": {"content": "another"}, "finish_reason": "stop"}]},
]


def _finish(draw: Any, choices: list[dict[str, Any]], reason: str) -> None:
    style = draw(st.sampled_from(["after", "with", "early", "twice", "stop first"]))
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    if style == "with":
        choices[-1]["finish_reason"] = reason
    if style == "early":
        draw(st.sampled_from(choices))["finish_reason"] = reason
    if style == "stop first":
        choices[-1]["finish_reason"] = "stop"
    if style in ("after", "twice", "stop first"):
        choices += [last] * (2 if style == "twice" else 1)


def _count(draw: Any, chunks: list[dict[str, Any]], said: Said) -> None:
    usage, style = (
        said.fields_of_usage(),
        draw(st.sampled_from(["alone", "with", "choice", "sums"])),
    )
    if style == "with":
        draw(st.sampled_from(chunks))["usage"] = usage
    if style == "choice":
        chunks[-1]["choices"][0]["usage"] = usage
    if style == "sums":
        for chunk in chunks:
            chunk["usage"] = {"prompt_tokens": usage["prompt_tokens"], "completion_tokens": 0}
    if style in ("alone", "sums"):
        chunks.append({"choices": [], "usage": usage})


# --- bytes ---------------------------------------------------------------------------------


@st.composite
def streams(draw: Any, said: Said) -> bytes:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    between = draw(st.sampled_from(["", f": ping{end}{end}", f"id: 7{end}", f"retry: 9{end}{end}"]))
    head = draw(st.sampled_from(["", f"event: message{end}", f": comment{end}"]))
    text = draw(st.sampled_from(["", "\ufeff"])) + between
    for chunk in draw(chunks(said)):
        indent = draw(st.sampled_from([None, None, 1]))
        event = dumped(chunk, indent=indent, ensure_ascii=draw(st.booleans()))
        field = draw(st.sampled_from(["data: ", "data:"]))
        blank = end if indent or draw(st.integers(0, 9)) else ""  # some leave it out
        text += (
            head + "".join(f"{field}{line}{end}" for line in event.split("\n")) + blank + between
        )
    if draw(st.booleans()):
        text += f"data: [DONE]{end}{end}"
    elif draw(st.booleans()):
        text = text.rstrip("\r\n")
    return text.encode()


def cut(raw: bytes, places: list[float]) -> list[bytes]:
    """The bytes, cut at these places (0 to 1); without any, into single bytes."""
    ends = sorted(int(place * len(raw)) for place in places) or range(1, len(raw))
    return [raw[a:b] for a, b in zip([0, *ends], [*ends, len(raw)], strict=True)]


PLACES = st.lists(st.floats(0, 1), max_size=9)


@st.composite
def wholes(draw: Any, said: Said) -> bytes:
    """The answer as a reply that is not streamed."""
    as_object = draw(st.booleans())
    message: dict[str, Any] = {"role": "assistant", **said.message}
    message |= {"reasoning_content": said.reasoning, "refusal": said.refusal}
    parts = [{"type": "text", "text": piece} for piece in draw(pieces(said.content))]
    message["content"] = draw(st.sampled_from([said.content, parts]))
    if said.calls:
        message["tool_calls"] = [
            {
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": a if as_object else json.dumps(a)},
            }
            for id, name, a in said.calls
        ]
    choice = {"index": 0, "message": message, **said.choice}
    if said.reason:
        choice["finish_reason"] = said.reason
    if said.logprobs:
        tokens = [{"token": "x", "logprob": logprob} for logprob in said.logprobs]
        choice["logprobs"] = {"content": tokens}
    reply = {"object": "chat.completion", "choices": [choice], **said.top}
    if said.usage:
        reply["usage"] = said.fields_of_usage()
    return dumped(reply, indent=draw(st.sampled_from([None, 1]))).encode()


def dumped(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON, with characters as they are where UTF-8 has them."""
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
