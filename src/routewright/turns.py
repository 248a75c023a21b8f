"""What of a conversation a choice reads: the last turns of the user, without what agents wrap
around them. Pure functions; every one is linear in the length of the texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Tags around texts that agents add to what their user wrote, with their texts.
ADDED = frozenset(
    "system-reminder system_reminder environment_context environment_details"
    " environment_information user_instructions attached_files additional_data"
    " open_and_recently_viewed_files linter_errors git_status project_layout user_info"
    " cursor_rules available_skills local-command-stdout local-command-stderr"
    " local-command-caveat command-name command-message ide_opened_file ide_selection"
    " workspace_info editorContext reminderInstructions".split()
)
# Tags that agents put around what their user wrote; only the tags are left out.
QUOTED = frozenset("task user_query user_message user_request userRequest".split())
TAG = re.compile(r"<(/?)([A-Za-z][\w-]{0,40})>")
LONGEST = 1 << 17  # characters of a message; of longer ones the middle is not read
ENOUGH = 40  # characters of the last turn, below which the turn before is read too
MOST_TURNS = 3  # that are read


def plain(text: str) -> str:
    """A user's message without what an agent has added to it.

    >>> plain("<system-reminder>Be brief.</system-reminder><task>Mend the test.</task>")
    'Mend the test.'
    """
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + "\n" + text[-LONGEST // 2 :]
    if "<" not in text:
        return text
    kept, place, unclosed = [], 0, set()
    for tag in TAG.finditer(text):
        closes, name = tag.groups()
        if tag.start() < place:
            continue  # inside of a block that is left out
        if name in QUOTED:
            kept.append(text[place : tag.start()])
            place = tag.end()
        elif name in ADDED and not closes and name not in unclosed:
            end = text.find(f"</{name}>", tag.end())
            if end < 0:
                unclosed.add(name)
                continue
            kept.append(text[place : tag.start()])
            place = end + len(name) + 3
    return "".join([*kept, text[place:]]).strip() if place else text


def last(messages: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The user's turns that a choice reads, in their order; messages are (role, text).

    It is the last turn, and those before it while they are short, at most MOST_TURNS in all. A
    message that an agent has made up entirely is no turn.

    >>> last([("user", "Write a parser for dates."), ("assistant", "Done."), ("user", "Go on.")])
    ('Write a parser for dates.', 'Go on.')
    """
    turns: list[str] = []
    size = 0
    for role, text in reversed(list(messages)):
        if role != "user" or not (turn := plain(text)):
            continue
        turns.append(turn)
        size += len(turn.strip())
        if size >= ENOUGH or len(turns) == MOST_TURNS:
            break
    return tuple(reversed(turns))


def opening(messages: Iterable[tuple[str, str]]) -> str:
    """The user's first turn, by which the requests of one conversation know each other."""
    turns = (plain(text) for role, text in messages if role == "user")
    return next((turn for turn in turns if turn), "")
