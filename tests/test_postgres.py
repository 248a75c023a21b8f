"""The PostgreSQL server of the tests is real, recovers from outages, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

HOST = """
import sys, time
import postgres
with postgres.server() as server:
    print(server.folder, server.process.pid, flush=True)
    time.sleep(600)
"""


def execute(url: str, *statements: str) -> list:
    engine = create_engine(url)
    with engine.begin() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        rows = [tuple(row) for row in results[-1]] if results[-1].returns_rows else []
    engine.dispose()
    return rows


def test_every_test_gets_an_empty_database(postgres, postgres_url):
    execute(postgres_url, "CREATE TABLE names (name text)")
    other = postgres.new_database()
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert execute(postgres_url, tables) == [("names",)]
    assert execute(other, tables) == []


@pytest.mark.parametrize("outage", ["restart", "kill"])
def test_what_was_committed_is_there_after_an_outage(postgres, postgres_url, outage):
    execute(postgres_url, "CREATE TABLE sums (usd int)", "INSERT INTO sums VALUES (7)")
    open_connection = create_engine(postgres_url).connect()
    if outage == "kill":
        postgres.kill()
        with pytest.raises(OperationalError):
            execute(postgres_url, "SELECT 1")
        postgres.start()
    else:
        postgres.restart()
    with pytest.raises(OperationalError):
        open_connection.execute(text("SELECT 1"))
    assert execute(postgres_url, "SELECT usd FROM sums") == [(7,)]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_process_that_runs_the_tests_is_killed(postgres, end):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert host.stdout is not None
    folder, server = host.stdout.readline().split()
    host.send_signal(end)
    host.wait(600)
    deadline = time.monotonic() + 600
    while Path(folder).exists():
        assert time.monotonic() < deadline, f"{folder} is still there"
        time.sleep(0.05)
    status = Path(f"/proc/{server}/status")  # a zombie at most, where nobody reaps orphans
    assert not status.exists() or "zombie" in status.read_text()
    host.stdout.close()
