"""The store: one database, SQLite beside the config by default, or PostgreSQL by its URL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from routewright.errors import BadInput, MissingExtra
from routewright.records import schema, statements

HEAD = "0003"  # the newest revision in migrations/versions
BUSY_SECONDS = 30.0  # that a writer of SQLite waits for another one
LIMITS = {  # of a connection to PostgreSQL, so that one that is gone is noticed soon
    "connect_timeout": 5,  # seconds
    "tcp_user_timeout": 10_000,  # milliseconds
    "options": "-c statement_timeout=20s -c lock_timeout=10s",
}
TABLES = "tables"  # the name of the lock under which they are made and changed
EXAMPLES = "sqlite:///routewright.db, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or none"


class Gone(SQLAlchemyError):
    """The file of the store was deleted or replaced: what is written would be lost."""


class Store:
    """One database with the tables of `schema`. Raises BadInput if it cannot be used.

    `begin` opens a transaction that writes, `read` one that reads. They may be used from any
    thread.
    """

    def __init__(self, url: str, folder: Path = Path()) -> None:
        self.url = parse(url, folder)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.label = _label(self.url)  # for messages: without its password
        if self.is_sqlite:
            self._file = self._make_file()
        try:
            self.engine = _engine(self.url)
        except ImportError as error:
            raise MissingExtra(f"the store {self.label}", error) from error

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes; it is committed at the end of the block."""
        self._check_file()
        with self.engine.begin() as connection:
            if self.is_sqlite:  # at once, so that what is read here is still so when it is written
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one state of the database."""
        self._check_file()
        with self.engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.exec_driver_sql(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )
            yield connection

    def close(self) -> None:
        self.engine.dispose()

    # --- its version --------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the tables of an empty database; raises BadInput if they are of another version."""
        with self.explained():
            revision = self.revision()
            if revision is None:
                self._create()
            elif revision != HEAD:
                raise self._of_another(revision)

    def _of_another(self, revision: str) -> BadInput:
        way_out = (
            "run `routewright db upgrade`"
            if revision < HEAD
            else "install the version of routewright that made it"
        )
        return BadInput(
            f"the tables of the store {self.label} are of revision {revision}, and this version of"
            f" routewright needs {HEAD}: {way_out}"
        )

    def revision(self) -> str | None:
        """The revision of the tables; None if there are none."""
        with self.read() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return None
            query = sqlalchemy.text("SELECT version_num FROM alembic_version")
            revision: str | None = connection.scalar(query)
            return revision

    def _create(self) -> None:
        """Makes all tables at once, as the migrations would one after the other."""
        with self.begin() as connection:
            statements.lock(connection, TABLES)
            if sqlalchemy.inspect(connection).has_table("alembic_version"):
                return  # another process was faster
            schema.metadata.create_all(connection, checkfirst=False)
            version = sqlalchemy.Table(
                "alembic_version",
                sqlalchemy.MetaData(),
                sqlalchemy.Column("version_num", sqlalchemy.String(32), primary_key=True),
            )
            version.create(connection)
            connection.execute(version.insert().values(version_num=HEAD))

    def upgrade(self) -> None:
        """Brings the tables to the newest revision; another process that does so is waited for.

        Raises BadInput if they are of a revision that this version does not have.
        """
        from alembic import command
        from alembic.config import Config as Alembic

        settings = Alembic()
        settings.set_main_option("script_location", "routewright.records:migrations")
        with self.explained():
            revision = self.revision()
        if revision is not None and revision > HEAD:
            raise self._of_another(revision)
        with self.explained(), self.begin() as connection:
            statements.lock(connection, TABLES)
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns errors of the database into BadInput, without what was to be written."""
        try:
            yield
        except SQLAlchemyError as error:
            raise BadInput(f"the store {self.label} cannot be used: {reason(error)}") from error

    # --- small states -------------------------------------------------------------------------

    def update_state(
        self, name: str, change: Callable[[dict[str, Any] | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Replaces a state that gateways share by what `change` makes of it, and returns that.

        `change` gets None if there is no such state yet. No other gateway changes it meanwhile.
        """
        table = schema.states
        with self.explained(), self.begin() as connection:
            statements.lock(connection, name)
            before = connection.scalar(select(table.c.value).where(table.c.name == name))
            after = change(before)
            row = {"name": name, "value": after, "at": time.time()}
            statements.replace(connection, table, [row])
            return after

    def _check_file(self) -> None:
        """Raises Gone if SQLite's file is not the one that was opened; open connections would go on
        with that one."""
        if self.is_sqlite:
            try:
                file = os.stat(self.url.database or "")
            except OSError as error:
                raise Gone("its file was deleted: put it back, and restart the gateway") from error
            if (file.st_dev, file.st_ino) != self._file:
                raise Gone("its file was replaced: restart the gateway")

    def _make_file(self) -> tuple[int, int]:
        """Makes the file, which only its owner may read, and its folder; returns what it is."""
        path = Path(self.url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise BadInput(f"server.store: '{path}' is not a file: name another one")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            file = path.stat()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise BadInput(
                f"server.store: '{path}' cannot be written ({why}): name another file, or"
                " `store: none` to keep nothing"
            ) from error
        return file.st_dev, file.st_ino


def parse(text: str, folder: Path) -> URL:
    """The URL of a store; a relative file is in `folder`. Raises BadInput."""
    try:
        url = sqlalchemy.make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        # The text may hold a password.
        raise BadInput(f"server.store is not the URL of a database: use {EXAMPLES}") from error
    if backend == "sqlite":
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise BadInput(f"server.store needs a file, such as {EXAMPLES}")
        return url.set(drivername="sqlite", database=str(folder / url.database), query={})
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise BadInput(f"server.store cannot be a database of the kind '{backend}': use {EXAMPLES}")


def _label(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"'{Path(url.database or '').name}'"
    return f"'{url.database}' at {url.host or 'this machine'}"


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sqlalchemy.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=8,
            connect_args=LIMITS,
            hide_parameters=True,
        )
    engine = sqlalchemy.create_engine(
        url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin as `begin` and `read` say
        for setting in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {setting}").close()

    return engine


def reason(error: Exception) -> str:
    """Why a database failed, in one line, without statements and values."""
    if isinstance(error, Gone):
        return str(error)
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    lines = str(error.orig).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def is_full(error: BaseException) -> bool:
    """Whether a database failed because its disk is full, or a file may not grow."""
    text = str(getattr(error, "orig", error)).lower()
    return any(part in text for part in ("is full", "no space left", "disk i/o error", "quota"))
