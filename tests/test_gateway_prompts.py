"""Big and odd prompts: one request stops nobody, and every limit has its sentence."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import numpy as np
import pytest

from routewright.gateway import body
from routewright.gateway.batches import SHORT, BatchingRouter
from routewright.gateway.body import MAX_DEPTH, MAX_KEYS, MAX_MESSAGES, MAX_NAME, MAX_TAGS
from routewright.router.router import Router
from routewright.types import MAX_EXCERPT, Query
from test_gateway import served
from test_gateway_hostile import sent
from upstream import Upstream, asked, config_of, gateway, running, until, wait_until

LONG = "word " * SHORT  # a prompt that no event loop reads


def post(**fields):
    return sent(json.dumps({"messages": asked(), **fields}))


def nested(levels):
    return json.loads("[" * levels + "]" * levels)


# --- limits --------------------------------------------------------------------------------

REFUSED = {  # field ▶ values that nobody means
    "messages": [asked() * (MAX_MESSAGES + 1), [], "hi"],
    "model": ["x" * (MAX_NAME + 1), 5],
    "max_tokens": [10**30, 10**8, 0, -1, 1.5, True, "5"],
    "max_completion_tokens": [10**30],
    "tools": [nested(MAX_DEPTH + 5), {"a": 1}],
    "x": [nested(MAX_DEPTH + 5), {f"k{i}": 1 for i in range(MAX_KEYS + 1)}],
    "routewright.max_cost": [1e308, 1e7, 0, -1, True],
    "routewright.min_quality": [1.1, -0.1, 10**30],
    "routewright.max_latency_ms": [1e308, 10**9, 0],
    "routewright.lambda": [1e308, 10**30, -1],
    "routewright.latency_price": [1e308, -1],
    "routewright.tags": [["x"] * (MAX_TAGS + 1), "x"],
    "routewright.tags.0": [["x" * (MAX_NAME + 1)], [5]],
    "routewright.domain": ["x" * (MAX_NAME + 1)],
    "routewright.region": ["x" * (MAX_NAME + 1), ""],
    "metadata.max_cost": ["1e308", "nan", "-1"],
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_value_out_of_range_is_a_400_that_names_its_field(field):
    upstream = Upstream()
    outer, _, inner = field.partition(".")

    async def work(client):
        url = f"{client.base_url}chat/completions"
        key = inner.partition(".")[0]
        bodies = [{outer: {key: value} if inner else value} for value in REFUSED[field]]
        return [await client._client.post(url, json={"messages": asked(), **b}) for b in bodies]

    for answer in served(work, upstream):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == field
        assert len(answer.text) < 1000
    assert upstream.requests == 0


TWICE = b'{"messages": [{"role": "user", "content": "hi"}], "metadata": {%s}, "metadata": {}}'


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (TWICE % b'"data_class": "restricted"', "the key 'metadata' twice"),
        (b'{"messages": [], "seed": ' + b"9" * 10**6 + b"}", "has 1000000 digits"),
        (b'{"messages": [], "seed": 0.' + b"9" * 10**6 + b"e999}", "is not a JSON number"),
        (b'{"messages": [' + b"[]," * 10**6 + b"1]}", "more than 100,000 values"),
        (b'{"messages": ["' + b'","' * 10**6 + b'"]}', "more than 100,000 values"),
        (b"[" * 10**6, "more than 100,000 values"),
        (b"[" * 50_000, "nested more than 100 levels"),
        ('{"messages": "hi"}'.encode("utf-16"), "not JSON in UTF-8"),
        (b'{"messages": ["\\ud800"]}', "not JSON"),
        (b"\xef\xbb\xbf", "not JSON"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(raw, reason):
    answer = served(sent(raw), Upstream())
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]
    assert len(answer.text) < 1000


def test_a_long_text_full_of_commas_and_brackets_is_one_value():
    text = '[],{},"\\' * 100_000
    answer = served(post(messages=asked(text)), upstream := Upstream())
    assert answer.status_code == 200
    assert upstream.bodies[0]["messages"][0]["content"] == text


# --- off the event loop --------------------------------------------------------------------


def slow(monkeypatch):
    """Makes predictions wait for `go_on`; records the size of each batch."""
    batches, began, go_on = [], threading.Event(), threading.Event()
    predict = Router.predict

    def waiting(self, queries):
        batches.append(len(queries))
        began.set()
        assert go_on.wait(600)
        return predict(self, queries)

    monkeypatch.setattr(Router, "predict", waiting)
    return batches, began, go_on


def test_others_are_answered_while_a_prompt_is_read(router_folder, monkeypatch):
    """The prompt's prediction does not end before /health and a plain request were answered."""
    policies = {
        "learned": {"strategy": "single", "router": str(router_folder), "price": 0.0},
        "plain": {"strategy": "fixed"},
    }
    upstream = Upstream()

    async def run():
        async with running(upstream), aiohttp.ClientSession() as session:
            names = Router.load(router_folder).experts
            policies["plain"]["options"] = {"expert": names[0]}
            config = config_of(*map(upstream.expert, names), policies=policies)
            async with gateway(config) as url:
                batches, began, go_on = slow(monkeypatch)

                async def chat(model):
                    body = {"model": model, "messages": asked(LONG)}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                        return answer.status

                first = asyncio.create_task(chat("learned"))
                await until(began.is_set)
                others = [asyncio.create_task(chat("learned")) for _ in range(5)]
                async with session.get(f"{url}/health") as health:
                    assert health.status == 200
                assert await chat("plain") == 200
                assert not first.done()
                go_on.set()
                assert await asyncio.gather(first, *others) == [200] * 6
                return batches

    batches = asyncio.run(run())
    assert batches[0] == 1, "a request that finds nobody waiting does not wait"
    assert sum(batches) == 6
    assert len(batches) < 6, "requests that wait are read together"


def test_a_big_body_is_parsed_outside_of_the_event_loop(monkeypatch):
    """/health answers while the body is parsed."""
    began, go_on = threading.Event(), threading.Event()
    parse = body.parse

    def waiting(*arguments, **options):
        began.set()
        assert go_on.wait(600)
        return parse(*arguments, **options)

    monkeypatch.setattr("routewright.gateway.body.parse", waiting)
    upstream = Upstream()

    async def run():
        async with (
            running(upstream),
            aiohttp.ClientSession() as session,
            gateway(config_of(upstream.expert("small"))) as url,
        ):
            chat = {"messages": asked("word " * body.INLINE)}
            asking = session.post(f"{url}/v1/chat/completions", json=chat)
            task = asyncio.ensure_future(asking.__aenter__())
            await until(began.is_set)
            async with session.get(f"{url}/health") as health:
                assert health.status == 200
            assert not task.done()
            go_on.set()
            return (await task).status

    assert asyncio.run(run()) == 200


def test_a_client_that_leaves_while_its_prompt_is_read_asks_nobody(router_folder, monkeypatch):
    upstream = Upstream()

    async def run():
        async with running(upstream), aiohttp.ClientSession() as session:
            names = Router.load(router_folder).experts
            learned = {"strategy": "single", "router": str(router_folder), "price": 0.0}
            config = config_of(*map(upstream.expert, names), policies={"default": learned})
            async with gateway(config) as url:
                _, began, go_on = slow(monkeypatch)
                chat = session.post(f"{url}/v1/chat/completions", json={"messages": asked(LONG)})
                task = asyncio.ensure_future(chat.__aenter__())
                await until(began.is_set)
                task.cancel()
                for _ in range(100):
                    async with session.get(f"{url}/metrics") as metrics:
                        if 'status="cancelled"' in await metrics.text():
                            break
                    await asyncio.sleep(0.05)
                go_on.set()
                async with session.get(f"{url}/health") as health:
                    return health.status

    assert asyncio.run(run()) == 200
    assert upstream.requests == 0


# --- batches -------------------------------------------------------------------------------


def test_a_batch_gives_every_call_its_own_prediction(router, monkeypatch):
    """Also where one query of the batch cannot be read."""
    shared = BatchingRouter.of(router)
    texts = [f"What is {i} plus {i}?" for i in range(6)]
    alone = [router.predict([Query.of(text)]).quality for text in texts]
    predict = Router.predict

    def reads(self, queries):
        if any(query.text == "unreadable" for query in queries):
            raise ValueError("unreadable")
        return predict(self, queries)

    monkeypatch.setattr(Router, "predict", reads)
    batches, began, go_on = slow(monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared.predict, [Query.of(texts[0])])
        assert began.wait(600)
        others = [pool.submit(shared.predict, [Query.of(text)]) for text in texts[1:]]
        bad = pool.submit(shared.predict, [Query.of("unreadable")])
        wait_until(lambda: len(shared._waiting) == 6)
        go_on.set()
        results = [future.result() for future in (first, *others)]
        with pytest.raises(ValueError, match="unreadable"):
            bad.result()
    assert batches[:2] == [1, 6]
    for result, expected in zip(results, alone, strict=True):
        assert np.allclose(result.quality, expected, atol=1e-12)


def test_short_prompts_that_arrive_together_are_read_together(router, monkeypatch):
    """On the event loop, without a thread; a query that cannot be read fails alone."""
    shared, batches = BatchingRouter.of(router), []
    texts = [f"What is {i} plus {i}?" for i in range(5)]
    alone = [router.predict([Query.of(text)]).quality for text in texts]
    predict = Router.predict

    def reads(self, queries):
        batches.append(len(queries))
        if any(query.text == "unreadable" for query in queries):
            raise ValueError("unreadable")
        return predict(self, queries)

    async def no_thread(*_):
        raise AssertionError("a short prompt needs no thread")

    async def run():
        queries = [Query.of(text) for text in (*texts, "unreadable")]
        work = [shared.foresee(query, no_thread) for query in queries]
        left = asyncio.ensure_future(shared.foresee(queries[0], no_thread))
        asyncio.get_running_loop().call_soon(left.cancel)
        return await asyncio.gather(*work, return_exceptions=True)

    monkeypatch.setattr(Router, "predict", reads)
    *results, bad = asyncio.run(run())
    assert isinstance(bad, ValueError)
    assert batches[0] == 6, "the client of the seventh has left"
    for result, expected in zip(results, alone, strict=True):
        assert np.allclose(result.quality, expected, atol=1e-12)


# --- long prompts --------------------------------------------------------------------------


def test_what_is_evaluated_of_a_long_prompt_is_what_is_served(router):
    """Only the beginning and the end are read; up to the bound, everything is."""
    long = "Read this. " + "lorem ipsum " * MAX_EXCERPT + "\nWhat is 2 plus 2?"
    inside = long.replace("ipsum lorem", "IPSUM LOREM")
    same = long[: MAX_EXCERPT // 2] + "0 = 1? " * 1000 + long[-MAX_EXCERPT // 2 :]
    assert Query.of(long[:MAX_EXCERPT]).excerpt == long[:MAX_EXCERPT]
    assert Query.of(long).excerpt == Query.of(same).excerpt != Query.of(inside).excerpt
    vectors = router.encoder.encode([Query.of(long), Query.of(same)])
    assert np.array_equal(*vectors)
    assert Query.of(long).text == long, "experts get all of it"
    assert Query.of(long).input_tokens == -(-len(long) // 4)
