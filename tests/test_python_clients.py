"""LangChain and litellm before a gateway, each with the settings that docs/clients/ gives."""

import asyncio

import pytest

from tool_upstream import ANSWER, ARGUMENTS, OBJECT, before_tools

PROMPT = "What is two and two?"
SCHEMA = {
    "title": "Sum",
    "description": "A sum.",
    "type": "object",
    "properties": {"sum": {"type": "number"}},
    "required": ["sum"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        },
    },
}


def served(work, folder):
    """Runs `work(url)` before an expert `small`, which calls tools; what it returns."""

    async def run():
        async with before_tools(folder) as url:
            return await work(url)

    return asyncio.run(run())


# --- LangChain -------------------------------------------------------------------------------


def chat_model(kind, url):
    """LangChain's model for one of the gateway's protocols."""
    if kind == "messages":
        anthropic = pytest.importorskip("langchain_anthropic")
        return anthropic.ChatAnthropic(model="auto", base_url=url, api_key="k1", max_retries=0)
    openai = pytest.importorskip("langchain_openai")
    options = {"model": "auto", "base_url": f"{url}/v1", "api_key": "k1", "max_retries": 0}
    return openai.ChatOpenAI(**options, use_responses_api=kind == "responses", stream_usage=True)


KINDS = pytest.mark.parametrize("kind", ["chat", "responses", "messages"])


@KINDS
def test_langchain_gets_a_text_whole_and_streamed(kind, tmp_path):
    async def work(url):
        model = chat_model(kind, url)
        whole = await model.ainvoke(PROMPT)
        pieces = [piece async for piece in model.astream(PROMPT)]
        return whole, pieces

    whole, pieces = served(work, tmp_path)
    assert whole.text == ANSWER
    assert whole.response_metadata["model_name"] == "small"
    assert "".join(piece.text for piece in pieces) == ANSWER
    assert len(pieces) > 5
    for usage in (whole.usage_metadata, sum(pieces[1:], pieces[0]).usage_metadata):
        assert usage["output_tokens"] == 5


@KINDS
def test_langchain_runs_a_tool(kind, tmp_path):
    async def work(url):
        from langchain_core.messages import HumanMessage, ToolMessage

        model = chat_model(kind, url).bind_tools([TOOL])
        question = HumanMessage(PROMPT)
        call = await model.ainvoke([question])
        pieces = [piece async for piece in model.astream([question])]
        streamed = sum(pieces[1:], pieces[0])
        (asked,) = call.tool_calls
        result = ToolMessage("4", tool_call_id=asked["id"])
        last = [await model.ainvoke([question, turn, result]) for turn in (call, streamed)]
        return asked, streamed.tool_calls[0], last

    asked, streamed, last = served(work, tmp_path)
    assert asked["name"] == streamed["name"] == "add"
    assert asked["args"] == streamed["args"] == ARGUMENTS
    assert [turn.text for turn in last] == ["the tool says 4"] * 2


@KINDS
def test_langchain_gets_an_object(kind, tmp_path):
    async def work(url):
        model = chat_model(kind, url)
        return await model.with_structured_output(SCHEMA, method="json_schema").ainvoke(PROMPT)

    assert served(work, tmp_path) == OBJECT


def test_langchain_gets_embeddings(tmp_path):
    openai = pytest.importorskip("langchain_openai")

    async def work(url):
        embeddings = openai.OpenAIEmbeddings(
            model="auto",
            base_url=f"{url}/v1",
            api_key="k1",
            check_embedding_ctx_length=False,
        )
        return await embeddings.aembed_documents(["two", "three"])

    assert served(work, tmp_path) == [[3, 1], [5, 1]]


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_langchain_sends_a_limit(kind, tmp_path):
    openai = pytest.importorskip("openai")

    async def work(url):
        model = chat_model(kind, url)
        model.extra_body = {"routewright": {"max_cost": 1e-9}}
        with pytest.raises(openai.UnprocessableEntityError, match="max_cost"):
            await model.ainvoke(PROMPT)

    served(work, tmp_path)


# --- litellm ---------------------------------------------------------------------------------


@pytest.fixture
def litellm(monkeypatch):
    """litellm, which is not in the extra `dev`: it needs an older python-dateutil."""
    monkeypatch.setenv(
        "LITELLM_LOCAL_MODEL_COST_MAP", "True"
    )  # else it asks the network for prices
    return pytest.importorskip("litellm", reason="litellm is not here: pip install litellm")


def options(url, model="openai/auto"):
    base = url if model.startswith("anthropic/") else f"{url}/v1"
    return {"model": model, "api_base": base, "api_key": "k1", "max_retries": 0}


@pytest.mark.parametrize("model", ["openai/auto", "anthropic/auto"])
def test_litellm_gets_a_text_whole_and_streamed(litellm, model, tmp_path):
    messages = [{"role": "user", "content": PROMPT}]

    async def work(url):
        one = options(url, model)
        whole = await asyncio.to_thread(litellm.completion, messages=messages, **one)
        stream = await litellm.acompletion(messages=messages, stream=True, **one)
        pieces = [piece.choices[0].delta.content or "" async for piece in stream]
        return whole, pieces

    whole, pieces = served(work, tmp_path)
    assert whole.choices[0].message.content == "".join(pieces) == ANSWER
    assert whole.usage.completion_tokens == 5


@pytest.mark.parametrize("model", ["openai/auto", "anthropic/auto"])
def test_litellm_runs_a_tool(litellm, model, tmp_path):
    question = {"role": "user", "content": PROMPT}

    async def work(url):
        one = {**options(url, model), "tools": [TOOL]}
        turn = (await litellm.acompletion(messages=[question], **one)).choices[0].message
        result = {"role": "tool", "tool_call_id": turn.tool_calls[0].id, "content": "4"}
        last = await litellm.acompletion(messages=[question, turn, result], **one)
        return last.choices[0].message.content

    assert served(work, tmp_path) == "the tool says 4"


def test_litellm_gets_a_response_and_a_message_of_anthropic(litellm, tmp_path):
    async def work(url):
        response = await litellm.aresponses(input=PROMPT, **options(url))
        message = await litellm.anthropic_messages(
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=100,
            **options(url, "anthropic/auto"),
        )
        return response, message

    response, message = served(work, tmp_path)
    assert response.output[0].content[0].text == ANSWER
    assert message["content"][0]["text"] == ANSWER


def test_litellm_gets_embeddings(litellm, tmp_path):
    async def work(url):
        return await litellm.aembedding(input=["two", "three"], **options(url))

    assert [row["embedding"] for row in served(work, tmp_path).data] == [[3, 1], [5, 1]]
