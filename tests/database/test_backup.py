"""A backup holds one moment, its restore is whole or nothing, and what was erased since stays erased."""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine, func, insert, select

from jobs.backup import backup, restore
from jobs.recommend import UserQuery, recommend_all
from recsys.database import backup_file, migration, schema
from recsys.database.backup import tables, write_backup
from recsys.database.changes import current_seq
from recsys.database.engine import connect, reading, writing
from recsys.database.erasures import OVERLAP_MS, append_erasure, read_journal
from recsys.database.keys import create_key
from recsys.database.leases import LOADING, lease
from recsys.database.ratings import delete_rating
from recsys.database.sqlite_file import copy_pages
from recsys.database.table_rows import TableDigest, read_batches
from recsys.database.users import erase_user
from recsys.errors import DatabaseError, InputError, LockedError, UsageError
from recsys.library.erasing import erase_person
from recsys.settings import Settings
from tests.conftest import add_known_item_model, add_known_rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(erasure_journal=tmp_path / "erasures", checkpoints=tmp_path / "checkpoints")


@pytest.fixture
def backed_up(known_engine: Engine, tmp_path: Path) -> Path:
    add_known_item_model(known_engine)
    path = tmp_path / "backup.zip"
    backup(known_engine, path)
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database of either kind to restore into; the SQLite file is not there yet."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_database_url")
    engine = connect(url)
    yield engine
    engine.dispose()


@pytest.fixture
def lost(tmp_path: Path, migrated_sqlite: Path) -> Engine:
    """An empty SQLite database beside the one that was lost."""
    shutil.copy(migrated_sqlite, tmp_path / "new.db")
    return connect(f"sqlite:///{tmp_path / 'new.db'}")


@pytest.fixture
def rated_sqlite(sqlite_engine: Engine) -> Engine:
    add_known_rows(sqlite_engine)
    return sqlite_engine


def content(engine: Engine, *without: str) -> dict[str, str]:
    """A digest of each table."""
    digests = {}
    with reading(engine) as connection:
        for table in tables():
            if table.name not in without:
                digest = TableDigest(table)
                for batch in read_batches(connection, table):
                    digest.update(batch)
                digests[table.name] = digest.hexdigest()
    return digests


WRITTEN_BY_A_RESTORE = ("audit_log", "audit_head", "changes", "change_counter")


def test_a_restore_into_either_database_is_equal_and_lists_are_bit_equal(
    known_engine: Engine, backed_up: Path, other: Engine, settings: Settings, tmp_path: Path
) -> None:
    report = restore(other, backed_up, settings, verify=True)
    assert report.verified
    assert report.rows == {"users": 4, "items": 7, "ratings": 6, "models": 4}
    assert content(other, *WRITTEN_BY_A_RESTORE) == content(known_engine, *WRITTEN_BY_A_RESTORE)
    files = [tmp_path / "before.csv", tmp_path / "after.csv"]
    for engine, file in zip((known_engine, other), files, strict=True):
        recommend_all(engine, file, UserQuery())
    assert files[0].read_bytes() == files[1].read_bytes()
    with writing(other) as connection:  # keys go on after those that were handed out
        key = connection.scalar(insert(schema.users).values(user_id="next").returning(schema.users.c.user_key))
    assert key == 5
    assert backed_up.stat().st_mode & 0o777 == 0o600
    # And back: through both databases it is the same.
    backup(other, tmp_path / "again.zip")
    restore(known_engine, tmp_path / "again.zip", settings, replace=True, verify=True)
    assert content(known_engine, *WRITTEN_BY_A_RESTORE) == content(other, *WRITTEN_BY_A_RESTORE)


def test_a_database_that_holds_something_is_replaced_only_if_told(
    known_engine: Engine, backed_up: Path, settings: Settings
) -> None:
    before = content(known_engine, *WRITTEN_BY_A_RESTORE)
    delete_rating(known_engine, "u1", "a")
    with writing(known_engine) as connection:
        later = connection.scalar(insert(schema.users).values(user_id="later").returning(schema.users.c.user_key))
    with pytest.raises(UsageError, match="--replace"):
        restore(known_engine, backed_up, settings)
    with reading(known_engine) as connection:
        seq = current_seq(connection)
    restore(known_engine, backed_up, settings, replace=True)
    assert content(known_engine, *WRITTEN_BY_A_RESTORE) == before
    with reading(known_engine) as connection:  # servers see a change that is later than all they know
        assert current_seq(connection) > seq
        assert connection.scalar(select(schema.changes.c.kind)) == "all"
    with writing(known_engine) as connection:  # no key is handed out twice, not even that of a row that is gone
        key = connection.scalar(insert(schema.users).values(user_id="next").returning(schema.users.c.user_key))
    assert later is not None
    assert key == later + 1


def test_a_load_that_runs_keeps_a_restore_away(rated_sqlite: Engine, settings: Settings, tmp_path: Path) -> None:
    backed_up = tmp_path / "b.zip"
    backup(rated_sqlite, backed_up)
    with lease(rated_sqlite, LOADING), pytest.raises(LockedError):
        restore(rated_sqlite, backed_up, settings, replace=True)


def test_readers_of_an_sqlite_file_go_on_during_a_restore(
    sqlite_engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    add_known_rows(sqlite_engine)
    backup(sqlite_engine, tmp_path / "b.zip")
    erased = select(func.count()).select_from(schema.users)
    with reading(sqlite_engine) as connection:
        assert connection.scalar(erased) == 4
        delete_rating(sqlite_engine, "u1", "a")
        restore(sqlite_engine, tmp_path / "b.zip", settings, replace=True)
        rated = select(func.count()).select_from(schema.ratings)
        assert connection.scalar(rated) == 6
    with reading(sqlite_engine) as connection:
        assert connection.scalar(rated) == 6


def test_what_is_written_during_a_backup_is_not_in_it(
    known_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(known_engine, "secrets")
    path = tmp_path / "b.zip"

    def write(_: int) -> None:
        if not done:
            done.append(True)
            erase_user(known_engine, "u2", actor="test")

    done: list[bool] = []
    manifest = write_backup(known_engine, path, write)
    assert {name: table.digest for name, table in manifest.tables.items() if name != "secrets"} == before


def test_a_second_backup_of_the_same_name_does_not_mix_with_the_first(
    rated_sqlite: Engine, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "b.zip"

    def begin_another(_: int) -> None:
        with pytest.raises(InputError, match="another backup is being written"):
            write_backup(rated_sqlite, path)

    (tmp_path / ".b.zip.part").write_bytes(b"left by one that was killed")
    write_backup(rated_sqlite, path, begin_another)
    restore(rated_sqlite, path, settings, replace=True, verify=True)
    assert not (tmp_path / ".b.zip.part").exists()


def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(
    rated_sqlite: Engine, migrated_sqlite: Path, tmp_path: Path
) -> None:
    target = Path(rated_sqlite.url.database or "")
    with writing(rated_sqlite), pytest.raises(sqlite3.OperationalError, match="another writer"):
        copy_pages(migrated_sqlite, target, busy_seconds=0.05)
    with reading(rated_sqlite) as connection:
        assert connection.scalar(select(func.count()).select_from(schema.users)) == 4


@pytest.mark.postgres
def test_a_reader_that_does_not_end_is_not_waited_for_for_ever(
    postgres_engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_known_rows(postgres_engine)
    backup(postgres_engine, tmp_path / "b.zip")
    monkeypatch.setattr("recsys.database.backup.BUSY_SECONDS", 0.05)
    with reading(postgres_engine) as connection:
        rated = select(func.count()).select_from(schema.ratings)
        assert connection.scalar(rated) == 6
        with pytest.raises(DatabaseError, match="another transaction"):
            restore(postgres_engine, tmp_path / "b.zip", settings, replace=True)
        assert connection.scalar(rated) == 6


def test_keys_are_not_replaced_unasked(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    backup(sqlite_engine, tmp_path / "b.zip")
    create_key(sqlite_engine, "shop", ["read"], actor="test")
    with pytest.raises(UsageError, match=r"API keys.*--replace"):
        restore(sqlite_engine, tmp_path / "b.zip", settings)


@pytest.mark.parametrize("name", ["users; DROP TABLE users", "", "../users"])
def test_manifests_that_no_backup_writes(sqlite_engine: Engine, settings: Settings, tmp_path: Path, name: str) -> None:
    path = tmp_path / "b.zip"
    backup(sqlite_engine, path)
    with manifest_of(path) as manifest:
        tables = manifest["tables"]
        assert isinstance(tables, dict)
        if name:
            tables[name] = tables["users"]
        else:
            del tables["users"]
    with pytest.raises(InputError, match="is not a backup"):
        restore(sqlite_engine, path, settings)
    with manifest_of(path) as manifest:
        manifest["format"] = "new"
    with pytest.raises(InputError, match="is not a backup"):
        restore(sqlite_engine, path, settings)


@pytest.mark.parametrize("place", ["first", "table", "manifest", "directory", "checksum", "cut", "grown"])
def test_a_changed_byte_is_refused_and_nothing_is_restored(
    sqlite_engine: Engine, settings: Settings, tmp_path: Path, place: str
) -> None:
    add_known_rows(sqlite_engine)
    path = tmp_path / "b.zip"
    backup(sqlite_engine, path)
    delete_rating(sqlite_engine, "u1", "a")
    before = content(sqlite_engine)
    data = bytearray(path.read_bytes())
    at = {
        "first": 0,
        "table": data.index(b"ratings.arrow") + 200,
        "manifest": data.index(b"snapshot_at") + 16,
        "directory": data.rindex(b"PK\1\2") + 20,
        "checksum": len(data) - 5,
    }
    if place == "cut":
        del data[-1000:]
    elif place == "grown":
        data += b"\0"
    else:
        data[at[place]] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cut short, damaged or not a backup.*nothing was restored"):
        restore(sqlite_engine, path, settings, replace=True)
    assert content(sqlite_engine) == before


def test_files_that_are_no_backups(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("user_id,item_id\n")
    with pytest.raises(InputError, match="not a backup"):
        restore(sqlite_engine, tmp_path / "text", settings)
    with pytest.raises(InputError, match="No such file"):
        restore(sqlite_engine, tmp_path / "missing", settings)
    with pytest.raises(InputError, match="is no backup: name another file"):
        backup(sqlite_engine, tmp_path / "text")
    with pytest.raises(InputError, match="cannot be written"):
        backup(sqlite_engine, tmp_path / "no" / "folder.zip")
    assert sorted(each.name for each in tmp_path.iterdir() if "part" in each.name) == []


@contextmanager
def manifest_of(path: Path) -> Iterator[dict[str, object]]:
    """The manifest of a backup, to be changed: the backup is written again with a right checksum."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    content = json.loads(members[backup_file.MANIFEST])
    yield content
    members[backup_file.MANIFEST] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
        file.comment = b"recsys backup sha256 " + b"0" * 64
    with path.open("r+b") as raw:
        checksum = backup_file.checksum_of(raw)
        raw.seek(-64, 2)
        raw.write(checksum.encode())


def test_backups_of_newer_versions_are_named(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    add_known_rows(sqlite_engine)
    path = tmp_path / "b.zip"
    backup(sqlite_engine, path)
    with manifest_of(path) as manifest:
        manifest["revision"] = "9999"
    with pytest.raises(InputError, match=r"schema 9999.*install that version"):
        restore(sqlite_engine, path, settings, replace=True)
    with manifest_of(path) as manifest:
        manifest["format"] = 2
    with pytest.raises(InputError, match=r"format 2.*install that version"):
        restore(sqlite_engine, path, settings, replace=True)


def test_a_backup_of_an_earlier_schema_is_upgraded(
    sqlite_engine: Engine, other: Engine, settings: Settings, tmp_path: Path
) -> None:
    add_known_rows(sqlite_engine)
    path = tmp_path / "b.zip"
    backup(sqlite_engine, path)
    added = ("item_weights", "audit_head", "made_files")  # tables since 0008
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist() if name.partition(".")[0] not in added}
    columns = {"api_keys": ["expires_at", "last_used_at"], "audit_log": ["previous_hash", "hash"]}  # that have no rows
    for name, dropped in columns.items():
        rows = pa.ipc.open_stream(members[f"{name}.arrow"]).read_all()
        assert not len(rows)
        rows, sink = rows.drop_columns(dropped), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        members[f"{name}.arrow"] = sink.getvalue().to_pybytes()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    with manifest_of(path) as manifest:
        manifest["revision"] = "0008"
        for name in added:
            manifest["tables"].pop(name, None)  # type: ignore[attr-defined]
    restore(other, path, settings, verify=True)
    assert migration.current_revision(other) == migration.head_revision()
    assert content(other, *WRITTEN_BY_A_RESTORE) == content(sqlite_engine, *WRITTEN_BY_A_RESTORE)


def test_a_restore_that_is_not_what_the_backup_holds_changes_nothing(
    known_engine: Engine, backed_up: Path, settings: Settings
) -> None:
    delete_rating(known_engine, "u1", "a")
    before = content(known_engine)
    with manifest_of(backed_up) as manifest:
        manifest["tables"]["ratings"]["digest"] = "0" * 64  # type: ignore[index]
    with pytest.raises(DatabaseError, match="the table ratings is not what the backup holds"):
        restore(known_engine, backed_up, settings, replace=True, verify=True)
    assert content(known_engine) == before


class TestErasures:
    """A backup from before an erasure does not undo it."""

    def test_the_database_that_is_replaced_remembers(
        self, known_engine: Engine, backed_up: Path, settings: Settings
    ) -> None:
        erase_user(known_engine, "u2", actor="test")
        report = restore(known_engine, backed_up, settings, replace=True)
        assert report.erased_again == 1
        self.is_without(known_engine, "u2")

    def test_the_journal_remembers_where_the_database_is_lost(
        self, rated_sqlite: Engine, lost: Engine, settings: Settings, tmp_path: Path
    ) -> None:
        backup(rated_sqlite, tmp_path / "b.zip")
        checkpoint = settings.checkpoints / "ranking-dot-0123.safetensors"
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(b"")
        said = erase_person(rated_sqlite, "u2", settings, actor="test")
        assert said.checkpoints == [str(checkpoint)]
        assert not checkpoint.exists()
        assert said.journal is not None
        text = Path(said.journal).read_text()
        assert "u2" not in text.replace(json.loads(text)["user"], "")
        assert restore(lost, tmp_path / "b.zip", settings, verify=True).erased_again == 1
        self.is_without(lost, "u2")
        # The tombstone is there again: a file does not bring the user back, nor the next restore.
        assert restore(lost, tmp_path / "b.zip", Settings(), replace=True).erased_again == 1

    def test_a_user_who_came_back_before_the_backup_stays(
        self, rated_sqlite: Engine, lost: Engine, settings: Settings, tmp_path: Path
    ) -> None:
        erase_person(rated_sqlite, "u2", settings, actor="test")
        with writing(rated_sqlite) as connection:
            connection.execute(insert(schema.users).values(user_id="u2"))
        journal = settings.erasure_journal
        assert journal is not None
        entry = json.loads(journal.read_text())
        journal.write_text(json.dumps({**entry, "at": entry["at"] - OVERLAP_MS - 1000}) + "\n")
        backup(rated_sqlite, tmp_path / "b.zip")
        assert restore(lost, tmp_path / "b.zip", settings).erased_again == 0

    def test_a_missing_journal_is_said_and_another_one_can_be_named(
        self, rated_sqlite: Engine, lost: Engine, settings: Settings, tmp_path: Path
    ) -> None:
        backup(rated_sqlite, tmp_path / "b.zip")
        erase_person(rated_sqlite, "u2", settings, actor="test")
        report = restore(lost, tmp_path / "b.zip", Settings())
        assert report.erased_again == 0
        assert "--erasures" in report.notices[0]
        assert settings.erasure_journal is not None
        report = restore(lost, tmp_path / "b.zip", Settings(), replace=True, journals=[settings.erasure_journal])
        assert report.erased_again == 1

    def test_an_erasure_that_had_not_ended_when_the_backup_began(
        self, rated_sqlite: Engine, lost: Engine, settings: Settings, tmp_path: Path
    ) -> None:
        manifest = write_backup(rated_sqlite, tmp_path / "b.zip")
        erase_person(rated_sqlite, "u2", settings, actor="test")
        assert settings.erasure_journal is not None
        entry = json.loads(settings.erasure_journal.read_text())
        settings.erasure_journal.write_text(json.dumps({**entry, "at": manifest.snapshot_at - 5}) + "\n")
        assert restore(lost, tmp_path / "b.zip", settings).erased_again == 1

    def test_the_journal_of_another_database(
        self, rated_sqlite: Engine, lost: Engine, settings: Settings, tmp_path: Path
    ) -> None:
        backup(rated_sqlite, tmp_path / "b.zip")
        (tmp_path / "others").write_text('{"user": "0123", "at": 9999999999999}\n')
        report = restore(lost, tmp_path / "b.zip", settings, journals=[tmp_path / "others"])
        assert "journal is that of another database" in report.notices[0]

    def test_a_line_that_was_cut_does_not_take_the_next_with_it(self, tmp_path: Path) -> None:
        journal = tmp_path / "erasures"
        append_erasure(journal, "a", 1)
        with journal.open("a") as file:
            file.write('{"user": "b", "a')
        append_erasure(journal, "c", 3)
        assert read_journal(journal) == {"a": 1, "c": 3}

    def test_a_disk_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        append_erasure(tmp_path / "erasures", "a", 1)
        assert read_journal(tmp_path / "erasures") == {"a": 1}

    def test_a_full_disk_keeps_the_journal_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = tmp_path / "erasures"
        append_erasure(journal, "a", 1)
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(DatabaseError, match=r"No space left.*nothing was erased"):
            append_erasure(journal, "b", 2)
        assert read_journal(journal) == {"a": 1}

    def test_nothing_is_erased_where_it_cannot_be_noted(self, rated_sqlite: Engine, tmp_path: Path) -> None:
        with pytest.raises(DatabaseError, match="nothing was erased"):
            erase_person(rated_sqlite, "u2", Settings(erasure_journal=tmp_path / "no" / "folder"), actor="test")
        with reading(rated_sqlite) as connection:
            assert "u2" in connection.scalars(select(schema.users.c.user_id)).all()

    def test_nothing_is_erased_where_a_checkpoint_stays(self, rated_sqlite: Engine, settings: Settings) -> None:
        (settings.checkpoints / "ranking-dot-0123.safetensors").mkdir(parents=True)  # which cannot be unlinked
        with pytest.raises(DatabaseError, match=r"cannot be deleted.*nothing was erased"):
            erase_person(rated_sqlite, "u2", settings, actor="test")
        assert settings.erasure_journal is not None
        assert not settings.erasure_journal.exists()
        with reading(rated_sqlite) as connection:
            assert "u2" in connection.scalars(select(schema.users.c.user_id)).all()

    def test_a_journal_that_is_none(self, rated_sqlite: Engine, settings: Settings, tmp_path: Path) -> None:
        assert settings.erasure_journal is not None
        backup(rated_sqlite, tmp_path / "b.zip")
        settings.erasure_journal.write_text('{"user": "x", "at": 1}\nuser\n')
        with pytest.raises(InputError, match=r"erasures:2 is not an erasure"):
            restore(rated_sqlite, tmp_path / "b.zip", settings, replace=True)

    @staticmethod
    def is_without(engine: Engine, user_id: str) -> None:
        with reading(engine) as connection:
            assert user_id not in connection.scalars(select(schema.users.c.user_id)).all()
            assert connection.scalar(select(func.count()).select_from(schema.ratings)) == 4
            counted = connection.scalar(select(func.sum(schema.item_counts.c.n_ratings)))
            assert counted == 4
