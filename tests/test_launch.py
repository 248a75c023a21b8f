"""Servers that we run: really started, on real ports, and really gone afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

import upstream
from routewright import config
from routewright.cli.main import app
from routewright.errors import BadInput, UpstreamError
from routewright.experts.client import Client
from routewright.experts.launch import VARIABLE, Server
from routewright.experts.supervisor import Supervisor
from routewright.gateway.lifecycle import Lifecycle
from routewright.types import Ask, Query
from upstream import until, wait_until

SCRIPT = Path(__file__).parent / "fixtures" / "server_script.py"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture
def launched(tmp_path: Path, free_port: int):
    """Writes a config with one launched expert, and afterwards ends whatever is left of it."""
    path = tmp_path / "routewright.yaml"

    def write(*flags: str, **launch: object) -> Path:
        command = " ".join([sys.executable, str(SCRIPT), "{port}", *flags])
        expert = {
            "name": "own/small",
            "base_url": f"http://127.0.0.1:{free_port}/v1",
            "retries": 0,
            "launch": {"command": command, "grace": 0.5, **launch},
        }
        policy = {"strategy": "fixed", "options": {"expert": "own/small"}}
        said = {"version": 1, "experts": [expert], "policies": {"default": policy}}
        path.write_text(yaml.safe_dump(said))
        return path

    yield write
    if path.exists():
        experts("stop", path)
    assert left(tmp_path) == [], "a process outlived the test"


def left(folder: Path) -> list[int]:
    """Processes that a server with a record in this folder has, children included."""
    records = folder.glob(".routewright/experts/*/server.json")
    tokens = {json.loads(path.read_text())["token"] for path in records}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) in tokens and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def experts(action: str, path: Path, *more: str):
    return CliRunner().invoke(app, ["experts", action, str(path), "--json", *more])


def row(path: Path) -> dict[str, object]:
    [only] = json.loads(experts("status", path).stdout)["experts"]
    return only


def expert_of(path: Path):
    return config.load(path).experts_by_name()["own/small"]


async def ask(client: Client) -> str:
    return (await client.ask(Ask("own/small"), Query.of("Who are you?"))).text


def test_start_is_idempotent_and_stop_leaves_nobody(launched, tmp_path):
    path = launched("--child")
    assert row(path)["state"] == "absent"
    assert experts("start", path).exit_code == 0
    first = row(path)
    assert (first["state"], first["started_by"]) == ("running", "user")
    assert experts("start", path).exit_code == 0
    assert row(path)["pid"] == first["pid"]
    assert len(left(tmp_path)) == 2  # it and its child, which ignores SIGTERM
    assert experts("stop", path).exit_code == 0
    assert row(path)["state"] == "stopped"
    assert left(tmp_path) == []


def test_another_command_is_another_server(launched, tmp_path):
    path = launched()
    experts("start", path)
    before = row(path)["pid"]
    experts("start", launched("--until", str(tmp_path)))
    assert row(path)["state"] == "running"
    assert row(path)["pid"] != before


def test_slow_readiness_is_loading_then_running_then_degraded(launched, tmp_path):
    ready = tmp_path / "ready"
    server = Server(expert_of(launched("--until", str(ready))))
    record = server.start("user")

    async def watch() -> list[str]:
        seen = []
        while not seen or seen[-1] != "running":
            if (state := (await server.status()).state) not in seen:
                seen.append(state)
            if state == "loading":
                ready.touch()
            await asyncio.sleep(0.02)
        os.kill(record.pid, signal.SIGSTOP)  # it lives and does not answer
        seen.append((await server.status()).state)
        os.kill(record.pid, signal.SIGCONT)
        return seen

    seen = asyncio.run(watch())
    assert seen[-3:] == ["loading", "running", "degraded"]
    assert seen[:-3] in ([], ["starting"]), "it may listen before we look"


def test_one_that_is_never_ready_is_stopped_and_told(launched, tmp_path):
    result = experts("start", launched("--until", "/never", patience=0.5))
    assert isinstance(result.exception, BadInput)
    assert "not ready within 0.5 s" in str(result.exception)
    assert left(tmp_path) == []
    assert row(tmp_path / "routewright.yaml")["state"] == "failed"


def test_a_crash_tells_its_exit_code_and_last_words(launched):
    result = experts("start", launched("--until", "/never", "--crash", "0.2"))
    message = str(result.exception)
    assert "exit code 3" in message
    assert "out of memory, alas" in message
    assert ".routewright/experts/own%2Fsmall/log" in message


def test_a_taken_port_names_who_has_it_and_starts_nothing(launched, free_port, tmp_path):
    path = launched()
    with socket.create_server(("127.0.0.1", free_port)):
        result = experts("start", path)
        message = str(result.exception)
    assert f"port {free_port} is taken by" in message
    assert f"pid {os.getpid()}" in message
    assert "base_url" in message
    assert row(path)["state"] == "absent"


def test_a_command_that_does_not_exist_is_one_clear_message(launched, tmp_path):
    path = launched()
    path.write_text(path.read_text().replace(sys.executable, "no-such-program"))
    assert "no-such-program: no such file" in str(experts("start", path).exception)


def test_it_starts_on_demand_stops_when_idle_and_starts_again(launched, tmp_path):
    expert = expert_of(launched(idle=0.5))

    async def live() -> tuple[str, str]:
        async with Client([expert]) as client:
            supervisor = client.servers["own/small"]
            assert left(tmp_path) == []
            answers = await asyncio.gather(ask(client), ask(client))
            assert answers[0] == answers[1]  # one server, though two asked at once
            await until(lambda: supervisor.state == "stopped")
            await until(lambda: not left(tmp_path))
            return answers[0], await ask(client)

    first, second = asyncio.run(live())
    assert first != second
    assert left(tmp_path) == []  # the client has stopped what it had started


def test_a_crash_is_followed_by_a_restart(launched, tmp_path):
    die = tmp_path / "die"
    expert = expert_of(launched("--die", str(die)))

    async def live() -> tuple[str, str]:
        async with Client([expert]) as client:
            client.servers["own/small"]._first_pause = 0.1
            supervisor = client.servers["own/small"]
            first, record = await ask(client), supervisor.server.record()
            assert record is not None
            die.touch()
            await until(lambda: (now := supervisor.server.record()) and now.pid != record.pid)
            await until(lambda: supervisor.state == "running")
            return first, await ask(client)

    first, second = asyncio.run(live())
    assert first != second


def test_after_its_restarts_it_is_failed_and_requests_are_refused_at_once(launched, caplog):
    expert = expert_of(launched("--until", "/never", "--crash", "0.1", restarts=1, wait=60))

    async def live() -> str:
        supervisor = Supervisor(expert, first_pause=0.1)
        with pytest.raises(UpstreamError, match="did not start"):
            async with supervisor.use(60):
                pass
        await until(lambda: supervisor._crashes == 2 and supervisor.state == "failed")
        with pytest.raises(UpstreamError, match="has failed") as refused:
            async with supervisor.use(60):
                pass
        await supervisor.close()
        return str(refused.value)

    assert "experts status" in asyncio.run(live())
    assert [line.count("exit code 3") for line in caplog.messages] == [1, 1]
    assert "restart in 0.1 s" in caplog.messages[0]
    assert "no restart left" in caplog.messages[1]


def test_a_request_that_has_waited_long_enough_goes_to_others_while_it_loads(launched, tmp_path):
    ready = tmp_path / "ready"
    expert = expert_of(launched("--until", str(ready), wait=0.3))

    async def live() -> str:
        async with Client([expert]) as client:
            with pytest.raises(UpstreamError, match="was not ready within"):
                await ask(client)
            ready.touch()
            await until(lambda: client.servers["own/small"].state == "running")
            return await ask(client)

    assert asyncio.run(live()).startswith("pid")


GATEWAY = """\
import sys, logging
from pathlib import Path
from routewright.config import load
from routewright.gateway.server import run
run(load(Path(sys.argv[1])), "127.0.0.1", 0, lambda url: print(url, flush=True))
"""


def connects(url: str) -> bool:
    """Whether somebody listens there."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def gateway(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(path)], stdout=subprocess.PIPE, text=True
    )


def test_a_server_survives_kill_9_of_the_gateway_is_taken_over_and_then_stopped(launched, tmp_path):
    path = launched("--child", start="serve")

    async def running() -> None:
        while row_of.get("state") != "running":
            row_of.update(await asyncio.to_thread(row, path))

    first = gateway(path)
    row_of: dict[str, object] = {}
    asyncio.run(asyncio.wait_for(running(), 600))
    first.kill()
    first.wait()
    assert row(path)["state"] == "running"
    second = gateway(path)
    assert second.stdout is not None
    url = second.stdout.readline().strip()
    try:
        import httpx2

        body = {"model": "auto", "messages": [{"role": "user", "content": "Who?"}]}
        wait_until(lambda: connects(url))
        reply = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=600)
        said = reply.json()["choices"][0]["message"]["content"]
        assert said == f"pid {row_of['pid']}"  # the same process
        assert httpx2.get(f"{url}/health").json()["servers"] == {"own/small": "running"}
    finally:
        second.send_signal(signal.SIGINT)
        second.wait(timeout=600)
    assert left(tmp_path) == []
    assert row(path)["state"] == "stopped"


def test_a_gateway_is_ready_once_the_servers_that_start_with_it_are_up(launched, tmp_path):
    import httpx2

    file = tmp_path / "ready"
    process = gateway(launched("--until", str(file), start="serve"))
    assert process.stdout is not None
    url = process.stdout.readline().strip()

    def ready() -> tuple[int, dict[str, object]]:
        reply = httpx2.get(f"{url}/ready", timeout=600)
        return reply.status_code, reply.json()

    try:
        wait_until(lambda: connects(url))
        assert ready() == (503, {"status": "starting", "waiting_for": ["own/small"]})
        file.touch()
        wait_until(lambda: ready()[0] == 200)
        assert ready() == (200, {"status": "ready"})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=600)


def test_a_reload_keeps_a_server_that_has_not_changed_and_replaces_another_after_its_last_request(
    launched, tmp_path
):
    path = launched()

    async def live() -> tuple[list[str], list[str]]:
        lifecycle = Lifecycle(config.load(path), lambda: config.load(path))
        await lifecycle.start()

        async def reload() -> None:
            await lifecycle.reload()
            await until(lambda: not lifecycle._closing)  # what no request uses has been closed

        with lifecycle.use() as services:
            pids = [await ask(services.client)]
            launched(idle=900)  # does not concern the process
            await reload()
            pids.append(await ask(lifecycle.services.client))
            supervisor = lifecycle.services.client.servers["own/small"]
            assert supervisor.launch.idle == 900
            launched("--until", str(tmp_path))
            await reload()
            begun = asyncio.create_task(ask(lifecycle.services.client))
            await until(lambda: lifecycle.services.client.servers["own/small"].state == "starting")
            pids.append(await ask(services.client))  # the old server still answers
            assert not begun.done()
        others = [await begun]
        with lifecycle.use() as services:
            said = yaml.safe_load(path.read_text())
            said["experts"] = [{**said["experts"][0], "name": "new", "launch": None}]
            said["policies"]["default"]["options"]["expert"] = "new"
            path.write_text(yaml.safe_dump(said))
            await reload()
            assert lifecycle.services.client.servers == {}
            others.append(await ask(services.client))  # until the last request has ended
        await until(lambda: left(tmp_path) == [])
        await lifecycle.close()
        return pids, others

    pids, others = asyncio.run(live())
    assert len(set(pids)) == 1
    assert len(set(others)) == 1
    assert pids[0] != others[0]


def test_what_the_user_started_outlives_a_gateway(launched, tmp_path):
    path = launched()
    experts("start", path)
    expert = expert_of(path)

    async def live() -> None:
        async with Client([expert]) as client:
            await ask(client)

    asyncio.run(live())
    assert row(path)["state"] == "running"


def test_children_of_a_killed_server_are_ended_before_the_next_start(launched, tmp_path):
    path = launched("--child")
    experts("start", path)
    os.kill(int(str(row(path)["pid"])), signal.SIGKILL)
    wait_until(lambda: row(path)["state"] == "failed")
    assert len(left(tmp_path)) == 1  # the child
    experts("start", path)
    assert len(left(tmp_path)) == 2


def test_stop_ends_the_server_of_an_expert_that_the_config_no_longer_has(launched, tmp_path):
    path = launched()
    experts("start", path)
    said = yaml.safe_load(path.read_text())
    said["experts"][0]["name"] = "other"
    path.write_text(yaml.safe_dump(said))
    experts("stop", path)
    assert left(tmp_path) == []


def edited(path: Path, new: Path, **changes: object) -> Path:
    """Writes the config of `path`, whose expert has changed so, to `new`."""
    said = yaml.safe_load(path.read_text())
    said["experts"][0] |= changes
    said["policies"]["default"]["options"]["expert"] = said["experts"][0]["name"]
    new.write_text(yaml.safe_dump(said))
    return new


def test_stop_finds_an_orphan_whose_folder_no_expert_names_any_more(launched, tmp_path):
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    path = launched(folder=str(elsewhere))
    experts("start", path)
    assert len(left(elsewhere)) == 1
    launch = yaml.safe_load(path.read_text())["experts"][0]["launch"]
    del launch["folder"]
    experts("stop", edited(path, path, name="other", launch=launch))
    assert left(elsewhere) == []


@pytest.fixture
def neighbours(launched, tmp_path):
    """Two configs in one folder, whose expert of one name is served at two ports."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
    path = launched()
    other = edited(path, tmp_path / "other.yaml", base_url=url)
    yield path, other
    experts("stop", other)


def test_configs_of_one_folder_keep_their_servers_apart(neighbours, tmp_path):
    path, other = neighbours
    experts("start", path)
    first = row(path)
    assert experts("start", other).exit_code == 0
    assert len({first["pid"], row(other)["pid"]}) == 2
    assert row(path) | {"seconds": 0} == first | {"seconds": 0}
    experts("stop", edited(other, other, name="renamed"))  # sweeps what is its own alone
    assert row(path)["state"] == "running"
    assert len(left(tmp_path)) == 1


def test_a_server_of_another_config_with_the_same_command_is_used_and_not_stopped(
    launched, tmp_path
):
    path = launched()
    other = edited(path, tmp_path / "other.yaml")
    experts("start", path)
    assert experts("start", other).exit_code == 0
    assert row(other)["pid"] == row(path)["pid"]
    assert "own/small runs on: routewright.yaml started it" in experts("stop", other).stderr
    assert row(path)["state"] == "running"
    experts("stop", path)
    assert row(other)["state"] == "absent"


def test_a_server_that_an_earlier_version_started_is_found(launched, tmp_path):
    path = launched()
    experts("start", path)
    [record] = tmp_path.glob(".routewright/experts/*/server.json")
    fields = json.loads(record.read_text())
    del fields["config"]
    record.write_text(json.dumps(fields))
    other = path.rename(tmp_path / "other.yaml")
    assert row(other)["state"] == "running"
    assert experts("stop", other).exit_code == 0
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base_url": "http://127.0.0.1/v1"}, "is not a port of this machine"),
        ({"base_url": "http://llm.example.com:9000/v1"}, "is not a port of this machine"),
        ({"base_url": None, "provider": "sandbox"}, "needs a `base_url`"),
        ({"launch": {"command": "serve 'it"}}, "no closing quotation"),
        ({"launch": {"comand": "serve"}}, "did you mean 'command'?"),
        ({"launch": {"command": "serve it"}}, "does not mention port"),
    ],
)
def test_what_cannot_be_launched_is_told_by_check(launched, changes, told):
    path = launched()
    said = yaml.safe_load(path.read_text())
    said["experts"][0] = {k: v for k, v in {**said["experts"][0], **changes}.items() if v}
    path.write_text(yaml.safe_dump(said))
    assert told in CliRunner().invoke(app, ["check", str(path)]).stdout
    path.unlink()


def test_a_server_in_the_cloud_is_told_the_way_out(launched):
    path = launched(cloud={"accelerators": "L4:1"})
    shown = " ".join(CliRunner().invoke(app, ["check", str(path)]).stdout.split())
    assert "experts[0].launch.cloud: was removed" in shown
    assert "sky launch" in shown
    assert "into `base_url:`" in shown
    assert "is no key" not in shown
    path.unlink()


@pytest.mark.parametrize("blocked", [".routewright", ".routewright/experts/own%2Fsmall/lock"])
def test_a_server_that_has_no_place_for_its_record_fails_like_any_other(
    launched, tmp_path, blocked
):
    """A full or read-only disk, say: a fallback can step in, and no process is left."""
    path = launched()
    spot = tmp_path / blocked
    if blocked == ".routewright":
        spot.touch()  # where a folder should be
    else:
        spot.mkdir(parents=True)  # where a file should be

    async def run():
        async with Client([expert_of(path)]) as client:
            with pytest.raises(UpstreamError, match="did not start") as failure:
                await ask(client)
            return failure.value

    assert asyncio.run(run()).status == 503
    said = experts("start", path)
    assert isinstance(said.exception, BadInput)
    assert "cannot start" in str(said.exception)
    path.unlink()


def test_a_record_that_cannot_be_written_leaves_no_process(launched, tmp_path, monkeypatch):
    path = launched()
    server = Server(expert_of(path))
    server.folder.mkdir(parents=True)
    (server.folder / "server.json").mkdir()
    began = []
    spawn = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: began.append(spawn(*a, **k)) or began[0]
    )
    with pytest.raises(BadInput, match="cannot start"):
        server.start("gateway")
    assert [process.wait(5) is not None for process in began] == [True]
    path.unlink()
    (server.folder / "server.json").rmdir()


async def statuses(url: str, times: int) -> list[int]:
    import aiohttp

    body = {"messages": [{"role": "user", "content": "Who?"}]}
    found = []
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                found.append(reply.status)
    return found


async def states(url: str) -> dict[str, str]:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as reply:
        return (await reply.json())["servers"]


def test_a_server_that_is_still_loading_is_not_taken_for_one_that_keeps_failing(launched, tmp_path):
    ready = tmp_path / "ready"
    path = launched("--until", str(ready), wait=0.1)

    async def run() -> list[int]:
        async with upstream.gateway(config.load(path)) as url, asyncio.timeout(120):
            early = await statuses(url, 7)
            ready.touch()
            while await states(url) != {"own/small": "running"}:
                await asyncio.sleep(0.05)
            return early + await statuses(url, 1)

    assert asyncio.run(run()) == [503] * 7 + [200]


def test_a_server_that_hangs_is_left_alone(launched):
    path = launched(wait=60)
    said = yaml.safe_load(path.read_text())
    said["experts"][0]["timeout"] = 0.5
    path.write_text(yaml.safe_dump(said))

    async def run() -> list[int]:
        async with upstream.gateway(config.load(path)) as url:
            while (first := await statuses(url, 1)) != [200]:  # half a second may be too little
                assert first == [504]
            record = Server(expert_of(path)).record()
            assert record is not None
            pid = record.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                return first + await statuses(url, 6)
            finally:
                os.kill(pid, signal.SIGCONT)

    assert asyncio.run(run()) == [200] + [504] * 5 + [503]
