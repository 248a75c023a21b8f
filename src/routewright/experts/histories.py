"""Takes out of a conversation what only another expert can read. Pure functions.

An expert may sign or encrypt its thoughts, and refuses those of others. So a message of an
assistant reaches whoever wrote it as it is, and everybody else without such parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from routewright.types import Conversation, Message

THOUGHTS = {"thinking", "redacted_thinking", "reasoning"}  # kinds of blocks and items
FIELDS = {  # of an assistant's message
    *("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks"),
    *("provider_specific_fields", "reasoning_signature", "reasoning_opaque", "encrypted_content"),
}
CALL_FIELDS = {"extra_content", "provider_specific_fields", "thought_signature"}  # of a tool call


def readable(
    messages: Iterable[Message], expert: str, conversation: Conversation | None
) -> list[Message]:
    """The messages as an expert may read them.

    >>> history = [{"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}]
    >>> readable(history, "large", Conversation("c", "small"))
    [{'role': 'assistant', 'content': '4'}]
    >>> readable(history, "small", Conversation("c", "small")) == history
    True
    """
    if conversation is None or conversation.expert is None:
        return list(messages)
    others = conversation.others if expert == conversation.expert else None
    written, result = 0, []
    for message in messages:
        if message.get("role") == "assistant":
            if others is None or written < others:
                message = _bare(message)
            written += 1
        result.append(message)
    return result


def _bare(message: Message) -> Message:
    """An assistant's message without what only its maker can read."""
    bare = {key: value for key, value in message.items() if key not in FIELDS}
    content = bare.get("content")
    if isinstance(content, list):
        blocks = [block for block in content if _kind(block) not in THOUGHTS]
        bare["content"] = blocks or [{"type": "text", "text": " "}]
    calls = bare.get("tool_calls")
    if isinstance(calls, list):
        bare["tool_calls"] = [_bare_call(call) for call in calls]
    return bare


def _bare_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    return {key: value for key, value in call.items() if key not in CALL_FIELDS}


def _kind(block: object) -> object:
    return block.get("type") if isinstance(block, Mapping) else None
