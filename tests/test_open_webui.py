"""Requests as Open WebUI's server sends them to an OpenAI-compatible connection."""

import asyncio
import json

import aiohttp

from upstream import Upstream, config_of, gateway, running

TITLE = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history."
TAGS = "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history."
USER = {  # what it sends where user information is forwarded
    "X-OpenWebUI-User-Name": "Ada%20Lovelace",
    "X-OpenWebUI-User-Id": "2c1d",
    "X-OpenWebUI-User-Email": "ada@example.com",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "9f7a",
}


def says(body):
    text = body["messages"][-1]["content"]
    return json.dumps({"title": "Sums"} if text == TITLE else {"tags": ["Maths"]})


def side_request(text):
    """A title or tags for a chat, which it asks for when the answer has come."""
    messages = [{"role": "user", "content": text}]
    return {"model": "auto", "messages": messages, "stream": False, "max_completion_tokens": 1000}


def test_open_webui_lists_models_streams_a_chat_and_gets_its_title_and_tags():
    chat = {
        "model": "auto",
        "messages": [{"role": "user", "content": "What is two and two?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    large, small = Upstream("two and two is four"), Upstream(says)

    async def run():
        async with running(large, small):
            experts = large.expert("large"), small.expert("small")
            config = config_of(*experts, server={"api_keys": ["k1"]})
            headers = {"Authorization": "Bearer k1", **USER}
            async with (
                gateway(config) as url,
                aiohttp.ClientSession(f"{url}/v1/", headers=headers) as client,
            ):
                async with client.get("models") as reply:
                    models = await reply.json()
                async with client.post("chat/completions", json=chat) as reply:
                    stream = await reply.text()
                sides = []
                for text in (TITLE, TAGS):
                    task = {**side_request(text), "model": "small"}
                    async with client.post("chat/completions", json=task) as reply:
                        sides.append(await reply.json())
                return models, stream, sides

    models, stream, sides = asyncio.run(run())
    assert [model["id"] for model in models["data"]] == [
        *("auto", "routewright/default", "large", "small")
    ]
    assert {model["object"] for model in models["data"]} == {"model"}
    *lines, done = [line for line in stream.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(line[6:]) for line in lines]
    pieces = [choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]]
    assert "".join(pieces) == "two and two is four"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 5)
    assert done == "data: [DONE]"
    texts = [json.loads(side["choices"][0]["message"]["content"]) for side in sides]
    assert texts == [{"title": "Sums"}, {"tags": ["Maths"]}]
    assert len(large.bodies) == 1
    assert not any("openwebui" in name.lower() for one in large.headers for name in one)
