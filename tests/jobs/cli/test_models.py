"""`recsys models` by hand: what the gate refused, the lease and the record of prune, and JSON for machines."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from recsys.database import schema
from recsys.database.audit import entries
from recsys.database.engine import reading, writing
from recsys.database.leases import TRAINING, lease
from recsys.database.models import live_numbers, publish
from recsys.errors import GateRefusedError, InputError, LockedError
from tests.conftest import add_known_model, add_known_rows


@pytest.fixture
def refused(engine: Engine) -> int:
    """Number of a stored version that the gate refused."""
    add_known_rows(engine)
    number = add_known_model(engine, "ranking")
    with writing(engine) as connection:
        connection.execute(update(schema.models).values(gate_passed=False, gate_reason="worse than popularity"))
    return number


def run(engine: Engine, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    # A command leaves its connections to the end of its process, which is here the end of all tests.
    monkeypatch.setattr("recsys.database.engine.connect", lambda _url: engine)
    return CliRunner().invoke(app, ["models", *arguments])


def live(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return dict(live_numbers(connection))


def test_a_version_that_the_gate_refused_needs_force_and_a_reason(engine: Engine, refused: int) -> None:
    with pytest.raises(GateRefusedError, match=rf"refused version {refused} \(worse than popularity\): .* force"):
        publish(engine, refused, "by hand")
    with pytest.raises(InputError, match="needs a reason"):
        publish(engine, refused, " ", force=True)
    assert live(engine) == {}
    publish(engine, refused, "the old one lists withdrawn items", force=True)
    assert live(engine) == {"ranking": refused}
    with reading(engine) as connection:
        reason = connection.scalar(select(schema.publications.c.reason))
    assert reason == (
        "forced: the old one lists withdrawn items; gate: worse than popularity; "
        "trained without each user's newest tenth of ratings"
    )
    publish(engine, refused, "again")  # it is live already: nothing to force


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command_asks_for_force_and_a_reason(engine: Engine, refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    number = str(refused)
    assert isinstance(run(engine, monkeypatch, "publish", number, "--reason", "x").exception, GateRefusedError)
    without_reason = run(engine, monkeypatch, "publish", number, "--force").exception
    assert isinstance(without_reason, InputError)
    assert "--force needs a reason" in str(without_reason)
    assert live(engine) == {}
    done = run(engine, monkeypatch, "publish", number, "--force", "--reason", "x", "--json")
    assert (json.loads(done.stdout)["number"], json.loads(done.stdout)["live"]) == (refused, True)
    again = run(engine, monkeypatch, "publish", number, "--force", "--reason", "x").stdout
    assert "without each user's newest tenth of ratings. To serve all ratings: `recsys train" in " ".join(again.split())
    with reading(engine) as connection:
        entry = entries(connection)[0]
    assert (entry.action, entry.detail) == ("publish", {"number": refused, "reason": "x", "force": True})


def test_prune_waits_for_no_training_and_is_recorded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    add_known_rows(engine)
    numbers = [add_known_model(engine, "ranking") for _ in range(4)]
    with lease(engine, TRAINING):
        assert isinstance(run(engine, monkeypatch, "prune", "--keep", "1").exception, LockedError)
    done = run(engine, monkeypatch, "prune", "--keep", "1", "--json")
    deleted = json.loads(done.stdout)["deleted"]
    assert sorted(deleted) == numbers[:3]
    with reading(engine) as connection:
        (entry,) = entries(connection)
    assert entry.actor.startswith("command line")
    assert (entry.action, entry.detail) == ("prune", {"keep": 1, "numbers": deleted})


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_rollback_init_and_report_answer_machines(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_known_rows(engine)
    first, second = (add_known_model(engine, "ranking") for _ in range(2))
    publish(engine, first, "-")
    publish(engine, second, "-")
    rolled_back = json.loads(run(engine, monkeypatch, "rollback", "--objective", "ranking", "--json").stdout)
    assert (rolled_back["number"], rolled_back["live"]) == (first, True)
    monkeypatch.setenv("RECSYS_DATABASE_URL", engine.url.render_as_string())
    init = json.loads(CliRunner().invoke(app, ["init", "--json"]).stdout)
    assert init.keys() == {"database", "server", "revision"}
    assert init["server"].startswith("SQLite ")
    report = json.loads(CliRunner().invoke(app, ["report", "--out", str(tmp_path / "out"), "--json"]).stdout)
    assert Path(report["file"]).is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("nightly",),
        ("tune",),
        ("sweep",),
        ("lr-find",),
        ("recommend", "u"),
        ("similar", "i"),
        ("popular",),
        ("report",),
        ("models", "list"),
        ("models", "prune"),
        ("keys", "list"),
        ("keys", "create", "shop", "--scope", "read"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_only_init_and_load_create_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], content: bytes | None
) -> None:
    file = tmp_path / "recsys.db"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("RECSYS_DATABASE_URL", f"sqlite:///{file}")
    refused = CliRunner().invoke(app, arguments).exception
    assert f"{file} holds no ratings yet: run `recsys load PATH` first" in str(refused)
    assert (file.read_bytes() if file.exists() else None) == content
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["recsys.db"])
