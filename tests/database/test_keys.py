"""API keys and the audit log."""

import hashlib
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from recsys.database import schema
from recsys.database.audit import entries, record
from recsys.database.clock import now_ms
from recsys.database.engine import is_sqlite, reading, writing
from recsys.database.keys import (
    SCOPES,
    ApiKey,
    KeyRing,
    Scope,
    allows,
    checksum,
    create_key,
    hash_of,
    list_keys,
    read_keyring,
    revoke_key,
    rotate_key,
)
from recsys.errors import InputError, NotFoundError


def ring(engine: Engine) -> KeyRing:
    with reading(engine) as connection:
        return read_keyring(connection)


def all_text(engine: Engine) -> str:
    """Everything in the database, as text."""
    with reading(engine) as connection:
        return repr([connection.execute(select(table)).all() for table in schema.metadata.sorted_tables])


def audited(engine: Engine) -> list[tuple[str, str, object]]:
    with reading(engine) as connection:
        return [(entry.actor, entry.action, entry.detail) for entry in entries(connection)]


def test_a_key_is_found_by_its_text_and_by_no_other(engine: Engine) -> None:
    before = now_ms()
    made, key = create_key(engine, "web shop", ["write", "read"], actor="ana")
    assert (made.number, made.name, made.scopes, made.revoked_at) == (1, "web shop", ("read", "write"), None)
    assert before <= made.created_at <= now_ms()
    assert key.startswith("recsys_")
    assert len(key) == len("recsys_") + 43 + 6  # 32 bytes in base64, and a checksum
    assert key.endswith(checksum(key.removeprefix("recsys_")[:43]))
    found = ring(engine)
    assert found.find(key) == made
    for other in ("", key[:-1], key + " ", key.upper(), key.removeprefix("recsys_"), "web shop", "1"):
        assert found.find(other) is None


def test_the_hash_of_a_key_is_no_key(engine: Engine) -> None:
    _, key = create_key(engine, "web shop", ["read"], actor="ana")
    (stored,) = ring(engine).by_hash
    assert stored == hashlib.sha256(key.encode()).hexdigest()
    assert ring(engine).find(stored) is None


def test_a_key_is_nowhere_in_the_database_and_its_hash_in_one_place(engine: Engine) -> None:
    keys = [create_key(engine, name, SCOPES, actor="ana")[1] for name in ("one", "two")]
    revoke_key(engine, "one", actor="ana")
    text = all_text(engine)
    assert "'two'" in text
    for key in keys:
        assert key not in text
        assert key.removeprefix("recsys_") not in text
        assert text.count(hashlib.sha256(key.encode()).hexdigest()) == 1
    if is_sqlite(engine):
        database = Path(engine.url.database or "")
        raw = b"".join(file.read_bytes() for file in database.parent.glob(database.name + "*"))
        assert b"two" in raw
        assert not [key for key in keys if key.removeprefix("recsys_").encode() in raw]


def test_each_key_is_another_even_under_one_name(engine: Engine) -> None:
    made = [create_key(engine, "same", ["read"], actor="ana") for _ in range(3)]
    assert len({key for _, key in made}) == 3
    assert [ring(engine).find(key) for _, key in made] == [known for known, _ in made]


@pytest.mark.parametrize("odd", ["\ud800", "\udcff" * 3, "x" * 10_000, "ключ", "\0", "recsys_é", "🔑", "\n"])
def test_odd_input_is_no_key(engine: Engine, odd: str) -> None:
    create_key(engine, "web shop", ["read"], actor="ana")
    assert ring(engine).find(odd) is None


def test_a_revoked_key_is_not_found_and_revoking_it_again_changes_nothing(engine: Engine) -> None:
    made, key = create_key(engine, "web shop", ["read"], actor="ana")
    _, other = create_key(engine, "reports", ["read"], actor="ana")
    before = ring(engine)
    revoked = revoke_key(engine, "web shop", actor="ben")
    assert (revoked.number, revoked.name, revoked.scopes) == (made.number, made.name, made.scopes)
    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= revoked.created_at
    assert ring(engine).find(key) is None
    assert ring(engine).find(other) is not None
    assert before.find(key) == made  # what a server holds changes only when it reads anew
    state = all_text(engine)
    assert revoke_key(engine, str(made.number), actor="eve") == revoked
    assert revoke_key(engine, "web shop", actor="eve") == revoked
    assert all_text(engine) == state


def test_a_name_that_several_keys_share_is_revoked_by_number(engine: Engine) -> None:
    first, second = (create_key(engine, "same", ["read"], actor="ana")[0] for _ in range(2))
    with pytest.raises(InputError, match=r"^keys 1, 2 have the name 'same': revoke each by its number$"):
        revoke_key(engine, "same", actor="ana")
    revoke_key(engine, "2", actor="ana")
    assert revoke_key(engine, "same", actor="ana").number == first.number  # the only one left in force
    assert revoke_key(engine, "same", actor="ana").number == second.number  # the newest; nothing changes
    assert len(audited(engine)) == 4


@pytest.mark.parametrize("unknown", ["2", "0", "-1", "01", "1.0", "9" * 30, "9" * 5000, "", "Web shop", "\0", "\ud800"])
def test_a_key_that_is_not_there(engine: Engine, unknown: str) -> None:
    create_key(engine, "web shop", ["read"], actor="ana")
    with pytest.raises(NotFoundError, match=r"there is no key .*: see `recsys keys list`"):
        revoke_key(engine, unknown, actor="ana")
    assert len(audited(engine)) == 1


def test_keys_are_listed_newest_first_with_the_revoked_ones(engine: Engine) -> None:
    with reading(engine) as connection:
        assert list_keys(connection) == []
    first, _ = create_key(engine, "one", ["read"], actor="ana")
    second, _ = create_key(engine, "two", ["admin"], actor="ana")
    revoked = revoke_key(engine, "one", actor="ana")
    with reading(engine) as connection:
        assert list_keys(connection) == [second, revoked]
    assert revoked.number == first.number


def test_a_service_that_ever_had_a_key_stays_closed(engine: Engine) -> None:
    assert (ring(engine).any_ever, len(ring(engine).by_hash)) == (False, 0)
    create_key(engine, "web shop", ["read"], actor="ana")
    assert (ring(engine).any_ever, len(ring(engine).by_hash)) == (True, 1)
    revoke_key(engine, "web shop", actor="ana")
    assert (ring(engine).any_ever, len(ring(engine).by_hash)) == (True, 0)


def test_a_key_ring_cannot_be_changed(engine: Engine) -> None:
    made, _ = create_key(engine, "web shop", ["read"], actor="ana")
    held = ring(engine)
    with pytest.raises(TypeError):
        held.by_hash["0"] = made  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        held.any_ever = False  # type: ignore[misc]


def test_a_key_ring_knows_when_a_key_expires() -> None:
    key = ApiKey(1, "shop", ("read",), created_at=0, revoked_at=None, expires_at=1000)
    lasting = ApiKey(2, "ops", ("admin",), created_at=0, revoked_at=None)
    keys = KeyRing({hash_of("a"): key, hash_of("b"): lasting}, any_ever=True)
    assert [keys.find("a", at) for at in (0, 999, 1000, 2000)] == [key, key, None, None]
    assert keys.find("a") is None
    assert keys.find("b") == keys.find("b", 2**60) == lasting


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("read",), {"read", "lists:read", "items:read", "ratings:read", "models:read"}),
        (("write",), {"write", "ratings:write", "items:write"}),
        (("lists:read", "write"), {"lists:read", "write", "ratings:write", "items:write"}),
        (("users:erase",), {"users:erase"}),
        (("admin",), set(SCOPES)),
        (("write", "admin"), set(SCOPES)),
    ],
)
def test_what_scopes_allow(scopes: tuple[Scope, ...], allowed: set[Scope]) -> None:
    key = ApiKey(number=1, name="web shop", scopes=scopes, created_at=0, revoked_at=None)
    assert {scope for scope in SCOPES if allows(key, scope)} == allowed


@pytest.mark.parametrize("name", ["a", "x" * 80, "Großhandel 🛒", "o'brien \"; DROP TABLE", "7 dwarfs", "-1"])
def test_good_names(engine: Engine, name: str) -> None:
    made, key = create_key(engine, name, ["read"], actor="ana")
    assert ring(engine).find(key) == made
    assert made.name == name
    assert revoke_key(engine, name, actor="ana").number == made.number


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is blank: give the name of its user"),
        ("   ", "is blank: give the name of its user"),
        ("x" * 81, "has 81 characters: expected at most 80; shorten it"),
        ("web\nshop", r"'web\\nshop' has characters that cannot be printed: remove them"),
        ("\0", "cannot be printed: remove them"),
        ("\x1b[31mred", "cannot be printed: remove them"),
        ("\ud800", "cannot be printed: remove them"),
        ("42", "'42' looks like the number of a key: add a letter"),
    ],
)
def test_bad_names(engine: Engine, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        create_key(engine, name, ["read"], actor="ana")
    assert not ring(engine).any_ever
    assert audited(engine) == []


@pytest.mark.parametrize(
    ("scopes", "said"),
    [
        ([], "a key needs a scope: give at least one of read, write, admin"),
        (["read", "root"], "there is no scope 'root': expected one of read, write, admin, lists:read"),
        (["read", "write", "read"], "a scope is repeated in read, write, read: give each once"),
    ],
)
def test_bad_scopes(engine: Engine, scopes: list[Scope], said: str) -> None:
    with pytest.raises(InputError, match=said):
        create_key(engine, "web shop", scopes, actor="ana")
    assert not ring(engine).any_ever


def test_making_and_revoking_is_in_the_audit_log(engine: Engine) -> None:
    create_key(engine, "web shop", ["write", "read"], actor="command line (ana)")
    revoke_key(engine, "1", actor="ben")
    assert audited(engine) == [
        ("ben", "revoke key", {"number": 1, "name": "web shop"}),
        ("command line (ana)", "create key", {"number": 1, "name": "web shop", "scopes": ["read", "write"]}),
    ]


def test_the_audit_log_is_read_newest_first_up_to_a_limit(engine: Engine) -> None:
    before = now_ms()
    with writing(engine) as connection:
        for number in range(5):
            record(connection, "ana", "count", {"number": number, "why": "ü", "parts": [1, None]})
    with reading(engine) as connection:
        assert [entry.detail["number"] for entry in entries(connection)] == [4, 3, 2, 1, 0]
        newest, *others = entries(connection, limit=2)
    assert len(others) == 1
    assert (newest.actor, newest.action, newest.detail) == (
        "ana",
        "count",
        {"number": 4, "why": "ü", "parts": [1, None]},
    )
    assert newest.number > others[0].number
    assert before <= newest.at <= now_ms()


def test_an_entry_is_there_only_if_the_change_is(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), writing(engine) as connection:
        record(connection, "ana", "divide", {"by": 0})
        raise ZeroDivisionError
    assert audited(engine) == []


def test_a_key_expires(engine: Engine) -> None:
    before = now_ms()
    made, key = create_key(engine, "reports", ["read"], actor="ana", seconds=60)
    assert made.expires_at is not None
    assert before + 60_000 <= made.expires_at <= now_ms() + 60_000
    assert ring(engine).find(key) == made
    assert ring(engine).find(key, made.expires_at - 1) == made
    assert ring(engine).find(key, made.expires_at) is None
    assert audited(engine)[0][2] == {
        "number": made.number,
        "name": "reports",
        "scopes": ["read"],
        "expires_at": made.expires_at,
    }
    for seconds in (0, -1, 1e12):
        with pytest.raises(InputError, match="expire"):
            create_key(engine, "x", ["read"], actor="ana", seconds=seconds)


def test_a_key_is_rotated_with_an_overlap(engine: Engine) -> None:
    old, old_text = create_key(engine, "web shop", ["write", "read"], actor="ana")
    new, new_text = rotate_key(engine, "web shop", actor="ben", seconds=3600)
    assert (new.name, new.scopes, new.expires_at) == ("web shop", ("read", "write"), None)
    assert new_text != old_text
    keys, later = ring(engine), now_ms() + 3_600_000
    assert keys.find(old_text) is not None
    assert keys.find(old_text, later) is None
    assert keys.find(new_text, later) == new
    assert ("ben", "rotate key", {"number": old.number, "name": "web shop", "new": new.number}) in audited(engine)
    with pytest.raises(InputError, match="keys 1, 2"):
        rotate_key(engine, "web shop", actor="ben", seconds=0)
    rotate_key(engine, str(old.number), actor="ben", seconds=0)
    assert ring(engine).find(old_text) is None
    with pytest.raises(InputError, match="revoked or has expired"):
        rotate_key(engine, str(old.number), actor="ben", seconds=0)
    with pytest.raises(InputError, match="0 or more"):
        rotate_key(engine, "2", actor="ben", seconds=-1)
    with pytest.raises(NotFoundError):
        rotate_key(engine, "none", actor="ben", seconds=0)


def test_a_rotated_key_never_lasts_longer_and_its_successor_as_long(engine: Engine) -> None:
    old, _ = create_key(engine, "reports", ["read"], actor="ana", seconds=60)
    new, _ = rotate_key(engine, "1", actor="ana", seconds=3600)
    with reading(engine) as connection:
        assert {key.number: key.expires_at for key in list_keys(connection)}[1] == old.expires_at
    assert new.expires_at == new.created_at + 60_000


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", b"\xff"),
        ("hash", b"\xff\xfe"),
        ("hash", "short"),
        ("scopes", "null"),
        ("scopes", '["admin"'),
        ("scopes", "[" * 100_000),
        ("created_at", "x"),
        ("expires_at", "x"),
        ("expires_at", ""),
        ("expires_at", b"\xff"),
        ("last_used_at", 1.5),
    ],
)
def test_a_damaged_key_opens_nothing_and_hides_no_other(sqlite_engine: Engine, column: str, value: object) -> None:
    """SQLite takes values of any type."""
    damaged, text = create_key(sqlite_engine, "damaged", ["admin"], actor="test")
    whole, other = create_key(sqlite_engine, "whole", ["read"], actor="test")
    with sqlite_engine.connect() as connection, connection.begin():
        statement = f"UPDATE api_keys SET {column} = ? WHERE key_number = ?"
        connection.exec_driver_sql(statement, (value, damaged.number))
    found = ring(sqlite_engine)
    assert (found.find(text), found.find(other)) == (None, whole)
    assert (found.damaged, found.any_ever) == ((damaged.number,), True)


def test_scopes_of_a_later_version_are_left_out(sqlite_engine: Engine) -> None:
    key, text = create_key(sqlite_engine, "new", ["read"], actor="test")
    with sqlite_engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("""UPDATE api_keys SET scopes = '["users:merge", "read", 7]'""")
    found = ring(sqlite_engine).find(text)
    assert found is not None
    assert (found.number, found.scopes) == (key.number, ("read",))
