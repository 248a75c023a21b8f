"""The command line for keys, budgets and records, against a gateway that runs meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import polars as pl
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, func, insert, select, update

from routewright.config import load
from routewright.data import outcomes
from routewright.records import accounts, schema
from routewright.records.keys import Key
from routewright.records.replicas import recover
from routewright.records.store import HEAD, Store
from upstream import Upstream, asked, gateway, in_thread, status, wait_until

DAY = 86400.0
MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]


def counted(upstream: Upstream) -> float:
    """US$ of the answers of an upstream, by its own usage."""
    tokens = ("prompt_tokens", "completion_tokens")
    return sum(one[tokens[0]] + 2 * one[tokens[1]] for one in upstream.billed) / 1e6


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request) -> str | None:
    """The URL of an empty store; None: the default, a file beside the config."""
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else None


@pytest.fixture
def config(tmp_path: Path, monkeypatch, store_url):
    """Writes a config in this folder, where commands find it, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(*upstreams: Upstream, prompts: str = "full", **server) -> Path:
        names = ("small", "large")
        experts = [one.expert(name) for name, one in zip(names, upstreams, strict=False)]
        experts = experts or [{"name": "small", "base_url": "http://127.0.0.1:9/v1"}]
        climbing = {"ladder": ["small", "large"], "trust": 0.7}
        policies = {"default": {"strategy": "fixed", "options": {"expert": "small"}}}
        if len(experts) > 1:
            policies["climbing"] = {"strategy": "cascade", "options": climbing}
        server = {"records": {"prompts": prompts}, **server}
        if store_url is not None:
            server.setdefault("store", store_url)
        settings = {"version": 1, "experts": experts, "policies": policies, "server": server}
        path = tmp_path / "routewright.yaml"
        path.write_text(json.dumps(settings))
        return path

    return write


@pytest.fixture
def command(routewright):
    """Runs a command that must succeed; returns its JSON, or its text."""

    def call(*words):
        code, out, err = routewright(*words)
        assert code == 0, err
        return json.loads(out) if "--json" in words else out

    return call


@contextmanager
def serving(path: Path):
    """A gateway for a config in a thread; gives a function that makes clients of it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = gateway(load(path))
    url = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(600)
    clients = []

    def client(key: str = "none") -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0))
        return clients[-1]

    try:
        yield client
    finally:
        for one in clients:
            one.close()
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(600)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def store_of(path: Path):
    settings = load(path)
    store = Store(settings.store_url, settings.folder)
    store.prepare()
    yield store
    store.close()


def ask(client: openai.OpenAI, text: str = "What is two and two?", **options):
    options = {"model": "auto", "messages": asked(text), **options}
    answer = client.chat.completions.create(**options)
    return list(answer) if options.get("stream") else answer


def is_let_in(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def ask_row(decision: str, at: float, usd: float, position: int = 0, **cells):
    return {
        **{"decision": decision, "position": position, "at": at, "usd": usd, "replica": "r"},
        **{"key": None, "owner": None, "team": None, "policy": "default", "expert": "small"},
        **{"kind": "answer", "status": "ok", "estimated": False, **cells},
    }


def decision_row(name: str, at: float, usd: float = 0.0, **cells):
    return {"id": name, "at": at, "replica": "r", "usd": usd, "status": "ok", **cells}


def record(path: Path, asks=(), rows=(), **tables):
    """Writes rows into a store."""
    with store_of(path) as store, store.begin() as connection:
        for table, values in (("asks", asks), ("decisions", rows), *tables.items()):
            for row in values:
                connection.execute(insert(schema.metadata.tables[table]).values(row))


# --- one story ---------------------------------------------------------------------------------


def test_spend_decisions_and_export_agree_with_what_the_upstreams_counted(
    config, command, tmp_path
):
    small, large = Upstream(says="four"), Upstream(says="it is four, of course")
    with in_thread(small, large):
        path = config(small, large)
        with serving(path) as client_of:
            web = command("keys", "create", "web", "--budget", "5/day", "--team", "t", "--json")
            app = command("keys", "create", "app", "--owner", "ada", "--json")
            assert web.keys() == app.keys() == {"name", "key"}
            wait_until(lambda: not is_let_in(client_of()))
            clients = [client_of(web["key"]), client_of(app["key"])]
            wait_until(lambda: all(map(is_let_in, clients)))
            for number, client in enumerate(clients * 3):
                ask(client, f"What is {number} and two?")
                ask(client, f"What is {number} and three?", stream=True)
                ask(client, f"What is {number} and four?", model="climbing")
                ask(client, f"What is {number} and five?", model="large")
            small.faults[:] = [status(400)]
            with pytest.raises(openai.BadRequestError):
                ask(clients[0], "What goes wrong?")
            wait_until(lambda: len(command("decisions", "--json")) == 25)
            answered = [row for row in command("decisions", "--json") if row["expert"]]
            by_key = {"web": clients[0], "app": clients[1]}
            for number, row in enumerate(answered):
                body = {"decision_id": row["id"], "score": float(number % 3 > 0)}
                by_key[row["key"]].post("/feedback", cast_to=dict, body=body)
        by_expert = {"small": counted(small), "large": counted(large)}
        spent = sum(by_expert.values())

        for by in ("key", "team", "owner", "expert", "policy", "day"):
            sums = command("spend", "--by", by, "--json")
            assert sums["total_usd"] == pytest.approx(spent, abs=1e-9)
            assert sums["rows"][0].keys() >= {by, "usd", "requests"}
        sums = {
            row["expert"]: row["usd"] for row in command("spend", "--by=expert", "--json")["rows"]
        }
        assert sums == pytest.approx(by_expert, abs=1e-9)
        keys = {row["key"]: row for row in command("spend", "--json")["rows"]}
        assert {name: row["requests"] for name, row in keys.items()} == {"web": 13, "app": 12}
        assert "web" in command("spend")

        listed = {row["name"]: row for row in command("keys", "list", "--json")}
        for name, row in keys.items():
            assert listed[name]["spent_usd"] == pytest.approx(row["usd"], abs=1e-9)
        assert listed["web"]["budget"] == {"day": 5.0, "month": None}
        assert web["key"] not in json.dumps(listed)

        rows = command("decisions", "--json")
        assert sum(row["usd"] for row in rows) == pytest.approx(spent, abs=1e-9)
        assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
        assert "What is" not in json.dumps(rows)
        assert len(command("decisions", "--key", "app", "--json")) == 12
        [failed] = [row for row in rows if row["status"] != "ok"]
        assert command("decisions", "--status", failed["status"], "--json") == [failed]
        assert "small" in command("decisions")
        assert {row["score"] for row in rows if row != failed} == {0.0, 1.0}

        out = tmp_path / "outcomes.parquet"
        summary = command("export", path, "--out", out, "--json")
        assert (summary["rows"], summary["scored"], summary["unanswered"]) == (24, 24, 1)
        table = outcomes.read(out)
        assert table.experts == ("large", "small")
        paid = pl.read_parquet(out).select(pl.col("^(cost|verify_cost)::.*$")).sum().row(0)
        assert sum(paid) == pytest.approx(spent, abs=1e-9)
        assert {query.text for query in table.queries} >= {"What is 0 and two?"}
        command("fit", out, "--out", tmp_path / "router")
        assert (tmp_path / "router" / "router.json").exists()

        assert "Nothing is wrong" in command("db", "check")


def test_a_revoked_key_is_refused_and_a_rotated_one_changes(config, command):
    upstream = Upstream()
    with in_thread(upstream):
        path = config(upstream)
        key = command("keys", "create", "web", "--json")["key"]
        with serving(path) as client_of:
            assert ask(client_of(key)).model == "small"
            new = command("keys", "rotate", "web", "--keep-old", "1h", "--json")["key"]
            wait_until(lambda: is_let_in(client_of(new)))
            assert is_let_in(client_of(key))
            newest = command("keys", "rotate", "web", "--json")["key"]
            wait_until(lambda: is_let_in(client_of(newest)))
            assert not is_let_in(client_of(new))
            assert not is_let_in(client_of(key))
            ask(client_of(newest))
            command("keys", "revoke", "web")
            wait_until(lambda: not is_let_in(client_of(newest)))
            asked_before = upstream.requests
            with pytest.raises(openai.AuthenticationError):
                ask(client_of(newest))
            assert upstream.requests == asked_before
        [row] = command("keys", "list", "--json")
        assert row["revoked"]


def test_limits_that_change_hold_without_a_new_key(config, command, routewright):
    upstream = Upstream()
    with in_thread(upstream):
        path = config(upstream, upstream)
        key = command("keys", "create", "web", "--rpm", "1000", "--json")["key"]
        with serving(path) as client_of:
            ask(client_of(key))
            command("keys", "change", "web", "--experts", "large", "--concurrency", "2")

            def refusal() -> int:
                try:
                    ask(client_of(key), model="small")
                except openai.APIStatusError as error:
                    return error.status_code
                return 200

            wait_until(lambda: refusal() == 403)
            command("keys", "change", "web", "--experts", "none", "--rpm", "none")
            wait_until(lambda: refusal() == 200)
        [row] = command("keys", "list", "--json")
        assert (row["experts"], row["rpm"], row["concurrency"]) == (None, None, 2)
    for words, said in (
        ((), "name a limit"),
        (("--rpm", "many"), "many"),
        (("--rpm", "0"), "rpm cannot be 0"),
        (("--experts", "nobody"), "nobody"),
        (("--data-classes", "secret"), "secret"),
    ):
        code, _, error = routewright("keys", "change", "web", *words, "--config", path)
        assert (code, said in error) == (2, True), error


def test_a_budget_set_while_the_gateway_runs_stops_a_team(config, command):
    upstream = Upstream()
    with in_thread(upstream):
        path = config(upstream)
        key = command("keys", "create", "web", "--team", "search", "--json")["key"]
        with serving(path) as client_of:
            ask(client_of(key))
            assert "US$ 0 per day" in command("keys", "budget", "--team", "search", "0/day")

            def refusal():
                try:
                    ask(client_of(key))
                except openai.RateLimitError as error:
                    return error.message

            wait_until(refusal)
            assert "team 'search'" in refusal()
            command("keys", "budget", "--team", "search", "none")
            wait_until(lambda: refusal() is None)


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("keys create web --budget 5", "--budget '5' has no period: write .* 5/day"),
        ("keys create web --budget -5/day", "'-5/day' is negative"),
        ("keys create web --budget 5/year", "'5/year' cannot be read"),
        ("keys create web --budget 5/day --budget 6/day", "two budgets per day"),
        ("keys create web --data-classes secret", "no data class 'secret': .* restricted"),
        ("keys create web --experts small,big", "no expert 'big' in the config: .* small"),
        ("keys create web --policies cheap", "no policy 'cheap' in the config: .* default"),
        ("keys create web --experts ,", "--experts names nothing"),
        ("keys create web --expires 7x", "--expires cannot be '7x': .* 7d"),
        ("keys create a/b", "'a/b' cannot be the name of a key"),
        ("keys create web --team a/b", "'a/b' cannot be the name of a team"),
        ("keys create web --tag a/b", "'a/b' cannot be the name of a tag"),
        ("keys budget 5/day", "one of --key, --team and --owner"),
        ("keys budget 5/day --key a --team b", "one of --key, --team and --owner"),
        ("keys budget 5 --team b", "the budget '5' has no period"),
        ("spend --since 7x", "--since cannot be '7x'"),
        ("decisions --since 0d", "--since cannot be '0d'"),
        ("export --out o.parquet --since 1", "--since cannot be '1'"),
        ("export --out o.csv", r"must end in .parquet or .jsonl"),
        ("db prune --older-than x", "--older-than cannot be 'x'"),
        ("keys revoke web", "nothing was recorded yet"),
        ("export --out o.parquet", "nothing was recorded yet"),
    ],
)
@pytest.mark.parametrize("store_url", [None])
def test_a_value_that_cannot_be_used_is_refused_before_a_store_is_made(
    config, routewright, tmp_path, words, message
):
    config()
    code, _, err = routewright(*words.split())
    assert code == 2
    assert re.search(message, " ".join(err.split())), err
    assert [file.name for file in tmp_path.iterdir()] == ["routewright.yaml"]


def test_names_that_are_taken_or_missing_are_named(config, command, routewright):
    config()
    command("keys", "create", "web", "--json")
    for words, message in (
        ("keys create web", "already a key 'web'"),
        ("keys revoke app", "no key 'app'; the keys are: web"),
        ("keys rotate app", "no key 'app'; the keys are: web"),
        ("keys budget 5/day --key app", "no key 'app'; the keys are: web"),
        ("decisions --key app", "no key 'app'; the keys are: web"),
    ):
        code, _, err = routewright(*words.split())
        assert code == 2
        assert message in err
    command("keys", "revoke", "web")
    code, _, err = routewright("keys", "rotate", "web")
    assert (code, "was revoked: create another one" in err) == (2, True)


@pytest.mark.parametrize("store_url", [None])
def test_commands_that_read_make_no_store_and_say_that_nothing_was_recorded(
    config, command, routewright, tmp_path
):
    config()
    for words in ("keys list", "spend", "decisions"):
        assert "Nothing was recorded yet" in command(*words.split())
    assert command("keys", "list", "--json") == command("decisions", "--json") == []
    assert command("spend", "--json")["total_usd"] == 0
    code, _, err = routewright("db", "check")
    assert (code, "nothing was recorded yet" in err) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["routewright.yaml"]


@pytest.mark.parametrize("store_url", [None])
@pytest.mark.parametrize("words", ["keys list", "keys create a", "spend", "db check", "db prune"])
def test_a_config_that_keeps_nothing_says_so(config, routewright, words):
    config(store="none")
    code, _, err = routewright(*words.split())
    assert code == (1 if words == "db check" else 2)
    assert "keeps nothing (`store: none`)" in err


# --- sums --------------------------------------------------------------------------------------


def test_sums_are_those_of_asks_with_the_part_that_is_unsure(config, command):
    path, now = config(), time.time()
    key = command("keys", "create", "web", "--budget", "9/month", "--json")["key"]
    web = Key(key[3:15], "web", "", 0.0)
    charges = [
        ask_row("a", now - 60, 0.25, key="web"),
        ask_row("a", now - 59, 0.5, 1, key="web", expert="large", estimated=True),
        ask_row("b", now - 2 * DAY, 1.0, key="web", team="t"),
        ask_row("c", now - 8 * DAY, 64.0),
    ]
    record(path, charges, [decision_row("a", now), decision_row("b", now - 2 * DAY, key="web")])
    with store_of(path) as store, store.begin() as connection:
        connection.execute(
            update(schema.decisions).where(schema.decisions.c.id == "a").values(key="web")
        )
        reserve = accounts.Reserve("a:1", accounts_key(connection, web), 0.125, 0.125, 0.125)
        assert accounts.apply(connection, [reserve], "dead", now) == [accounts.Grant(0.125)]
        recover(connection, ["dead"], now)
    [row] = command("spend", "--json")["rows"]
    sums = {"usd": 1.75, "estimated_usd": 0.5, "unsure_usd": 0.125, "requests": 2}
    assert row == {"key": "web", **sums}
    days = command("spend", "--by", "day", "--since", "30d", "--json")["rows"]
    assert [row["usd"] for row in days] == [64.0, 1.0, 0.75]
    assert days[-1]["day"] == accounts.periods_of(now - 59)[0]
    experts = command("spend", "--by", "expert", "--since", "1h", "--json")["rows"]
    assert [(row["expert"], row["usd"], row["requests"]) for row in experts] == [
        ("large", 0.5, 1),
        ("small", 0.25, 1),
    ]


def accounts_key(connection, key):
    from routewright.records.keys import named

    return named(connection, key.name)


def test_the_month_is_forecast_at_its_present_pace(config, command, monkeypatch):
    now = 20 * DAY + 1_769_904_000  # 2026-02-21, with eight days to go
    monkeypatch.setattr("time.time", lambda: now)
    record(config(), [ask_row(str(n), now - n * 3600 - 60, 0.01) for n in range(28 * 24)])
    summary = command("spend", "--json")["forecast"]
    assert summary["month"] == "2026-02"
    assert summary["usd"] == pytest.approx(20 * 24 * 0.01)
    assert summary["forecast_usd"] == pytest.approx(28 * 24 * 0.01, rel=0.02)
    assert "2026-02: US$ 4.80 so far, about US$ 6.7" in command("spend")


# --- export ------------------------------------------------------------------------------------


def test_without_any_prompt_export_names_the_key_to_set(config, command, routewright):
    path = config(prompts="none")
    record(path, [ask_row("a", time.time(), 1.0)], [decision_row("a", time.time(), messages=None)])
    code, _, err = routewright("export", path, "--out", "o.parquet")
    assert code == 2
    assert "set `server.records.prompts` to `redacted` or `full`" in err
    assert not Path("o.parquet").exists()


def test_an_export_keeps_propensities_and_groups_the_turns_of_a_conversation(
    config, command, monkeypatch
):
    monkeypatch.setattr("routewright.records.export.BATCH", 2)
    path, now = config(), time.time()
    beliefs = [
        {"name": "small", "propensity": 0.75},
        {"name": "large", "propensity": 0.25},
        {"name": "gone", "propensity": 0.0},
    ]
    answer = {"role": "assistant", "content": "4"}
    conversation = [*MESSAGES, answer, {"role": "user", "content": "Sure?"}]
    cells = {"experts": beliefs, "data_class": "internal", "domain": "sums", "tags": ["easy"]}
    rows = [
        decision_row("a", now - 3, messages=MESSAGES, expert="small", answer="4", **cells),
        decision_row("b", now - 2, messages=conversation, expert="large", answer="Yes", **cells),
        decision_row("c", now - 1, messages=MESSAGES, status="UpstreamError", **cells),
        decision_row("d", now, messages=MESSAGES, status="interrupted"),
        decision_row("e", now, messages=None, expert="small"),
        decision_row("f", now - 40 * DAY, messages=MESSAGES, expert="small"),
    ]
    asks = [
        ask_row("a", now, 0.5, seconds=2.0, output_tokens=7),
        ask_row("b", now, 0.25, status="failed"),
        ask_row("b", now, 0.5, 1, seconds=1.0, output_tokens=5),
        ask_row("b", now, 0.125, 2, kind="verify"),
        ask_row("b", now, 2.0, 3, expert="large"),
        ask_row("c", now, 0.0, status="failed"),
        ask_row("d", now, 1.0),
        ask_row("e", now, 1.0),
        ask_row("f", now - 40 * DAY, 1.0, expert="old"),
    ]
    record(path, asks, rows, scores=[{"decision": "b", "at": now, "score": 0.5}])
    summary = command("export", "--config", path, "--out", "o.parquet", "--json")
    assert summary == {"rows": 3, "scored": 1, "unanswered": 1, "usd": 4.375}
    table = outcomes.table(Path("o.parquet"))
    by_id = {row["id"]: row for row in table.iter_rows(named=True)}
    assert list(by_id) == ["a", "b", "d"]
    assert not any(column.endswith("::old") for column in table.columns)
    a, b = by_id["a"], by_id["b"]
    assert (a["prompt"], a["messages"], a["domain"]) == ("What is 2 + 2?", None, "sums")
    assert (a["tags"], a["data_class"]) == (["easy"], "internal")
    assert json.loads(b["messages"]) == conversation
    assert a["group"] == b["group"]
    assert (a["cost::small"], a["latency::small"], a["out_tokens::small"]) == (0.5, 2.0, 7.0)
    assert (a["answer::small"], a["score::small"], a["cost::large"]) == ("4", None, None)
    assert (b["cost::small"], b["verify_cost::small"], b["cost::large"]) == (0.75, 0.125, 2.0)
    assert (b["score::small"], b["score::large"], b["answer::large"]) == (None, 0.5, "Yes")
    assert (a["propensity::small"], a["propensity::large"]) == (0.75, 0.25)
    assert by_id["d"]["propensity::small"] is None
    recorded = outcomes.read("o.parquet", split="train")
    assert recorded.measures["propensity"][0].tolist() == [0.25, 0.75]  # large, small
    outcomes.save(table, Path("o.jsonl"))
    again = outcomes.table(Path("o.jsonl"))
    assert again.select(table.columns).equals(table)


# --- the database ------------------------------------------------------------------------------


def test_prune_deletes_what_is_old_and_keeps_balances(config, command, monkeypatch):
    monkeypatch.setattr("routewright.records.decisions.PORTION", 3)
    path, now = config(records={"retention_days": 30, "prompts": "full"}), time.time()
    command("keys", "create", "web", "--json")
    with store_of(path) as store, store.begin() as connection:
        web = accounts_key(connection, Key("", "web", "", 0.0))
        for n in range(10):
            at = now - 40 * DAY if n < 8 else now - 60
            charge = accounts.Charge(ask_row(str(n), at, 0.5, key="web"), web)
            row = decision_row(str(n), at, 0.5, key="web", answer="word " * 100_000)
            accounts.apply(connection, [charge, accounts.End(row, web)], "r", now)
            score = {"decision": str(n), "at": at, "score": 1.0}
            connection.execute(insert(schema.scores).values(score))
    size = command("db", "check", "--json")["bytes"]
    counts = {"decisions": 8, "asks": 8, "scores": 8}
    assert command("db", "prune", "--dry-run", "--json").items() >= counts.items()
    assert command("db", "prune", "--older-than", "90d", "--json")["asks"] == 0
    assert command("db", "prune", "--json").items() >= counts.items()
    facts = command("db", "check", "--json")
    assert facts["problems"] == []
    assert [facts["rows"][name] for name in ("asks", "decisions", "scores")] == [2, 2, 2]
    if path.with_name("routewright.db").exists():
        assert facts["bytes"] < size / 2
        assert path.with_name("routewright.db").stat().st_size == facts["bytes"]
    assert command("spend", "--since", "60d", "--json")["total_usd"] == 1.0
    assert "were deleted" in command("spend", "--since", "60d")
    [row] = command("keys", "list", "--json")
    assert row["spent_usd"] == 5.0


def test_check_reports_sums_that_differ_and_exits_with_1(config, command, routewright):
    path, now = config(), time.time()
    command("keys", "create", "web", "--team", "t", "--json")
    with store_of(path) as store, store.begin() as connection:
        web = accounts_key(connection, Key("", "web", "", 0.0))
        rows = [ask_row(str(n), now, 0.5, key="web", team="t") for n in range(3)]
        accounts.apply(connection, [accounts.Charge(row, web) for row in rows], "r", now)
    facts = command("db", "check", "--json")
    assert (facts["revision"], facts["problems"], facts["rows"]["asks"]) == (HEAD, [], 3)
    with store_of(path) as store, store.begin() as connection:
        connection.execute(delete(schema.asks).where(schema.asks.c.decision == "1"))
    code, out, err = routewright("db", "check")
    assert code == 1
    assert "asks 2" in out
    for account in ("key 'web'", "team 't'"):
        assert f"the balance of the {account} is US$ 1.500000, and its asks cost US$ 1.000000" in (
            " ".join(err.split())
        )


def test_the_migrations_make_the_tables_of_the_schema(config, command):
    path = config()
    assert f"of {HEAD} now" in command("db", "upgrade")
    assert f"is of revision {HEAD}" in command("db", "upgrade")
    with store_of(path) as store, store.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    command("keys", "create", "web", "--json")


def test_tables_made_at_once_are_those_of_the_migrations(config, command):
    """What `create_all` makes is of the same names and columns, indexes included."""
    path = config()
    command("keys", "create", "web", "--json")
    with store_of(path) as store, store.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


@pytest.mark.parametrize("words", ["keys list", "spend", "keys create a", "db upgrade", "db check"])
def test_a_store_of_a_newer_version_is_refused(config, command, routewright, words):
    path = config()
    command("keys", "create", "web", "--json")
    with store_of(path) as store, store.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'"))
    code, _, err = routewright(*words.split())
    assert code == (1 if words == "db check" else 2)
    assert "are of revision 9999" in err
    assert "install the version of routewright that made it" in " ".join(err.split())
    settings = load(path)
    store = Store(settings.store_url, settings.folder)
    with store.read() as connection:
        assert connection.scalar(select(func.count()).select_from(schema.keys)) == 1
    store.close()
