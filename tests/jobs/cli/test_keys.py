"""`recsys keys` as a person runs it."""

import re
import subprocess
from pathlib import Path

import pytest

from jobs.cli.options import actor
from recsys.database import migration
from recsys.database.audit import entries
from recsys.database.engine import connect, reading, writing
from recsys.database.keys import KeyRing, read_keyring
from recsys.database.tokens import check
from tests.jobs.cli.test_main import Recsys


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Recsys:
    engine = connect(f"sqlite:///{tmp_path / 'recsys.db'}")
    migration.upgrade(engine)
    engine.dispose()
    return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")


@pytest.fixture
def recsys(on_sqlite: Recsys) -> Recsys:
    """On SQLite alone: what reaches the database is tested on both beside `recsys.database.keys`."""
    on_sqlite.environment |= {"LOGNAME": "ana"}
    return on_sqlite


def ring_and_actors(recsys: Recsys) -> tuple[KeyRing, set[str]]:
    engine = connect(recsys.environment["RECSYS_DATABASE_URL"])
    with reading(engine) as connection:
        found = read_keyring(connection), {entry.actor for entry in entries(connection)}
    engine.dispose()
    return found


def test_a_key_is_made_listed_and_revoked(recsys: Recsys) -> None:
    assert "there are no keys: create one with `recsys keys create" in recsys("keys", "list")
    key = recsys("keys", "create", "[b]web shop", "--scope", "write", "--scope", "read").removesuffix("\n")
    assert re.fullmatch(r"recsys_[\w-]{49}", key)
    ring, actors = ring_and_actors(recsys)
    found = ring.find(key)
    assert found is not None
    assert (found.number, found.name, found.scopes) == (1, "[b]web shop", ("read", "write"))
    assert actors == {"command line (ana)"}

    listed = recsys("keys", "list")
    assert "[b]web shop" in listed
    assert "read, write" in listed
    assert key not in listed

    assert recsys("keys", "revoke", "[b]web shop") == "key 1 ([b]web shop) is revoked\n"
    assert recsys("keys", "revoke", "1") == "key 1 ([b]web shop) is revoked\n"
    ring, _ = ring_and_actors(recsys)
    assert ring.find(key) is None
    assert ring.any_ever


def test_the_same_for_machines(recsys: Recsys) -> None:
    assert recsys.json("keys", "list") == {"keys": []}
    made = recsys.json("keys", "create", "reports", "--scope", "read")
    key = made.pop("key")
    assert isinstance(key, str)
    ring, _ = ring_and_actors(recsys)
    assert ring.find(key) is not None
    assert made.pop("created_at")
    times = {"revoked_at": None, "expires_at": None, "last_used_at": None}
    assert made == {"number": 1, "name": "reports", "scopes": ["read"], **times}
    (listed,) = recsys.json("keys", "list")["keys"]  # type: ignore[misc]
    assert listed.keys() == {*made, "created_at"}
    revoked = recsys.json("keys", "revoke", "reports")
    assert revoked["revoked_at"] is not None
    assert recsys.json("keys", "list") == {"keys": [revoked]}
    assert recsys.json("keys", "revoke", "reports") == revoked


def test_create_prints_the_key_once_and_says_so_beside_it(on_sqlite: Recsys) -> None:
    command = on_sqlite.command("keys", "create", "web shop", "--scope", "admin")
    done = subprocess.run(command, cwd=on_sqlite.folder, env=on_sqlite.environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.split()) == 1
    kept, database = done.stderr.splitlines()
    assert kept == "This is key 1 (admin). Keep it: it is not shown again."
    assert database == f"database: {on_sqlite.environment['RECSYS_DATABASE_URL']}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "web shop"), 2, "--scope"),
        (("create", "--scope", "read"), 2, "NAME"),
        (
            ("create", "web shop", "--scope", "root"),
            1,
            "recsys: there is no scope 'root': expected one of read, write",
        ),
        (("create", "web shop", "--scope", "read", "--scope", "read"), 1, "give each once"),
        (("create", " ", "--scope", "read"), 1, "the name of a key is blank"),
        (("create", "42", "--scope", "read"), 1, "add a letter"),
        (("create", b"\xff".decode("utf-8", "surrogateescape"), "--scope", "read"), 1, "remove them"),
        (("revoke", "7"), 1, "recsys: there is no key '7': see `recsys keys list`"),
        (("revoke",), 2, "NUMBER_OR_NAME"),
    ],
)
def test_errors_are_one_line_with_the_fix(on_sqlite: Recsys, arguments: tuple[str, ...], code: int, said: str) -> None:
    error = on_sqlite("keys", *arguments, code=code)
    assert said in error
    assert "Traceback" not in error
    if code == 1:
        assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_help_teaches(on_sqlite: Recsys, command: str) -> None:
    said = on_sqlite("keys", command, "--help")
    examples = [line for line in said.splitlines() if line.strip().startswith(("recsys keys", "KEY="))]
    assert len(examples) >= 2
    assert ("Authorization: Bearer" in said) == (command != "list")


def test_the_actor_is_the_login_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ana\n\udcff")
    assert actor() == "command line (ana)"

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert actor() == "command line"


def test_a_key_is_rotated(recsys: Recsys) -> None:
    old = recsys("keys", "create", "reports", "--scope", "read", "--expires-days", "30").strip()
    new = recsys("keys", "rotate", "reports", "--overlap-hours", "0").strip()
    ring, _ = ring_and_actors(recsys)
    assert ring.find(old) is None
    assert ring.find(new) is not None
    made = recsys.json("keys", "rotate", "2")
    assert (made["number"], made["name"], made["scopes"]) == (3, "reports", ["read"])
    assert made["expires_at"] is not None


def test_a_token_is_signed_with_a_key(recsys: Recsys) -> None:
    recsys("keys", "create", "shop", "--scope", "lists:read")
    ring, _ = ring_and_actors(recsys)
    token = check(recsys("keys", "token", "shop", "--user", "a/ü").strip(), ring)
    assert (token.user_id, token.key.name) == ("a/ü", "shop")
    assert token.allows("lists:read")
    assert not token.allows("ratings:read")
    recsys("keys", "revoke", "shop")
    assert "is revoked" in recsys("keys", "token", "shop", "--user", "a", code=1)


def test_the_audit_log_is_listed_and_verified(recsys: Recsys) -> None:
    recsys("keys", "create", "shop", "--scope", "read")
    recsys("keys", "revoke", "shop")
    (entry,) = recsys.json("audit", "--action", "revoke key")["entries"]
    assert (entry["actor"], entry["detail"]) == ("command line (ana)", {"number": 1, "name": "shop"})
    assert "name=shop" in recsys("audit")
    noted = recsys.json("audit", "--verify")
    assert (noted["n_entries"], noted["hash"], noted["problem"]) == (2, entry["hash"], None)
    engine = connect(recsys.environment["RECSYS_DATABASE_URL"])
    with writing(engine) as connection:
        connection.exec_driver_sql("DELETE FROM audit_log WHERE entry_key = 1")
    engine.dispose()
    recsys("audit", "--verify", "--known", str(noted["hash"]), code=1)
