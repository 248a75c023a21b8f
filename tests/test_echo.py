"""The provider `echo`, with which a config can be tried without a model or a key."""

import asyncio

import openai
import pytest

from upstream import asked, config_of, front

PARROT = {"name": "parrot", "provider": "echo", "input_per_mtok": 1.0, "output_per_mtok": 2.0}
DIALOGUE = [
    {"role": "system", "content": "You repeat."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": [{"type": "text", "text": "say it  again,\nplease"}]},
]


def served(work, entry=PARROT, **sections):
    async def run():
        async with front(config_of(entry, **sections)) as client:
            return await work(client)

    return asyncio.run(run())


def test_an_echo_answers_with_the_last_user_message():
    async def work(client):
        return await client.chat.completions.with_raw_response.create(
            model="auto", messages=DIALOGUE
        )

    reply = served(work)
    completion = reply.parse()
    assert completion.choices[0].message.content == "say it  again,\nplease"
    assert completion.choices[0].finish_reason == "stop"
    usage = completion.usage
    assert usage.completion_tokens == 6  # 22 characters
    cost = (usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6
    assert float(reply.headers["x-routewright-cost"]) == pytest.approx(cost)


def test_a_stream_echoes_word_by_word():
    async def work(client):
        stream = await client.chat.completions.create(
            model="parrot", messages=DIALOGUE, stream=True, stream_options={"include_usage": True}
        )
        return [piece async for piece in stream]

    pieces = served(work)
    words = [piece.choices[0].delta.content for piece in pieces if piece.choices]
    assert [word for word in words if word] == ["say", " it", "  again,", "\nplease"]
    assert pieces[-1].usage.completion_tokens == 6


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_output_limit_cuts_an_echo(field):
    async def work(client):
        return await client.chat.completions.create(
            model="auto", messages=asked("one two three"), **{field: 2}
        )

    (choice,) = served(work).choices
    assert (choice.message.content, choice.finish_reason) == ("one two ", "length")


def test_an_echo_has_the_limits_of_its_entry():
    """It may not see other data classes, reads no more than its window, and uses no tools."""

    def ask(text="hello", **options):
        async def work(client):
            return await client.chat.completions.create(
                model="auto", messages=asked(text), **options
            )

        return work

    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    restricted = {"extra_body": {"routewright": {"data_class": "restricted"}}}
    entry = PARROT | {"context_window": 100}
    for work in (ask(**restricted), ask("word " * 1000), ask(tools=[tool])):
        with pytest.raises(openai.UnprocessableEntityError):
            served(work, entry)
    assert served(ask(), entry).choices[0].message.content == "hello"


def test_an_echo_without_prices_is_free():
    async def work(client):
        return await client.chat.completions.with_raw_response.create(
            model="auto", messages=asked()
        )

    assert float(served(work, {"name": "p", "provider": "echo"}).headers["x-routewright-cost"]) == 0


def test_an_option_that_is_no_limit_is_refused_by_name():
    async def work(client):
        return await client.chat.completions.create(model="auto", messages=asked())

    with pytest.raises(openai.APIStatusError, match="'many' is no number of tokens"):
        served(work, PARROT | {"options": {"max_tokens": "many"}})
