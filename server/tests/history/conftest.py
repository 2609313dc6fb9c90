"""The engines that a history is made of."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenwire_server.history.postgres_place import PostgresPlace

from .postgres_server import PostgresServer, need_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of a worker."""
    need_postgres()
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    """A new database, without a history yet."""
    place = postgres.place()
    yield place
    postgres.sql(f"DROP DATABASE {place.database} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | PostgresPlace:
    """Where a history is kept: for tests that hold for every engine."""
    if request.param == "sqlite":
        return tmp_path
    found: PostgresPlace = request.getfixturevalue("database")
    return found
