"""Connections of a server to PostgreSQL while they are opened."""

from typing import Any

import pytest
from sqlalchemy import Engine

from recsys.database.breaker import Breaker
from recsys.database.engine import connect, reading
from recsys.errors import DatabaseError


@pytest.mark.postgres
def test_a_connection_whose_limits_cannot_be_set_is_closed(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    opened: list[psycopg.Connection[Any]] = []
    add = Breaker.add

    def add_and_end(breaker: Breaker, connection: psycopg.Connection[Any]) -> None:
        add(breaker, connection)
        opened.append(connection)
        monkeypatch.setattr(connection, "execute", lambda _: (_ for _ in ()).throw(psycopg.OperationalError("gone")))

    monkeypatch.setattr(Breaker, "add", add_and_end)
    url = postgres_engine.url.render_as_string(hide_password=False)
    engine = connect(url, breaker=Breaker())
    with pytest.raises((DatabaseError, psycopg.OperationalError)), reading(engine):
        pass
    assert [connection.closed for connection in opened] == [True]
    engine.dispose()
