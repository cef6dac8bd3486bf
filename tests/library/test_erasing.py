"""Promise 8: what is left of a person who was erased. On both databases."""

import logging
import os
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text, update

from jobs.export import export
from jobs.recommend import UserQuery, recommend_all
from jobs.rejects import HEADER
from recsys.data.rows import UserRow
from recsys.database import schema
from recsys.database.engine import is_sqlite, reading, writing
from recsys.database.made_files import note_files, read_files
from recsys.database.space import rewrite_tables
from recsys.database.users import upsert_users, user_key_of
from recsys.errors import NotFoundError
from recsys.files.erasing import erase_from_rejects, erase_from_table
from recsys.files.exported import read_manifest
from recsys.library.erasing import erase_person
from recsys.settings import Settings
from tests.api.conftest import serving, url_of
from tests.database.made import post

ID = "erased-person-4711@example.org"
OTHER = "other-person@example.org"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_person(engine: Engine) -> bytes:
    """Add a user with metadata, ratings and a row in version 1; return the bytes of the row's vector."""
    upsert_users(engine, [UserRow(user_id, ("people",), {"town": f"of {user_id}"}) for user_id in (ID, OTHER)])
    for rating in (1.0, 2.0):
        post(engine, (ID, "a", rating), (ID, "b", rating), (OTHER, "a", rating))
    vector = os.urandom(8)
    with writing(engine) as connection:
        row = {"number": 1, "user_key": user_key_of(connection, ID), "bias": 0.0, "vector": vector}
        connection.execute(insert(schema.user_factors).values(row))
        this = schema.models.c.number == 1
        connection.execute(update(schema.models).where(this).values(n_users=schema.models.c.n_users + 1))
    return vector


def files_with(folder: Path, *found: bytes) -> list[str]:
    """Names of the files that have any of some bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(each in path.read_bytes() for each in found)]


def folder_of_tables(engine: Engine) -> Path:
    """The folder of all files of a PostgreSQL database."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("CHECKPOINT"))
        name = text(
            "SELECT setting || '/base/' || oid FROM pg_settings, pg_database "
            "WHERE name = 'data_directory' AND datname = current_database()"
        )
        return Path(connection.scalar(name))


def test_promise_8_no_byte_of_an_erased_person_is_left(
    known_engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vector = add_person(known_engine)
    export(known_engine, folder / "export", ["ratings", "users"])
    export(known_engine, folder / "csv", ["ratings", "users", "lists"], "csv")
    recommend_all(known_engine, folder / "lists.parquet", UserQuery())
    rejects = folder / "rejects.txt"
    rejects.write_text(f"{HEADER}\nr.csv:2: user '{ID}' is bad\nr.csv:3: user '{OTHER}' is bad\n")
    note_files(known_engine, [rejects], "rejects")
    checkpoint = folder / ".recsys" / "checkpoints" / "ranking-dot-01.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(vector)
    assert len(files_with(folder, ID.encode(), vector)) >= 8
    caplog.set_level(logging.DEBUG)
    with serving(url_of(known_engine)) as client:
        posted = {"ratings": [{"user_id": ID, "item_id": "c", "event": "view", "rated_at": 1700000000}]}
        assert client.post("/v1/ratings", json=posted).status_code == 200
        assert client.get(f"/v1/users/{ID}/recommendations").status_code == 200
        assert client.delete(f"/v1/users/{ID}/ratings/b").status_code == 204
        assert client.get(f"/v1/users/{ID}/nothing").status_code == 404
        answer = client.delete(f"/v1/users/{ID}")
        receipt = answer.json()
        counts = ("ratings", "events", "withdrawals", "versions", "vectors")
        assert [receipt[name] for name in counts] == [2, 1, 1, [1], 1]
        assert receipt["checkpoints"] == [checkpoint.name]
        assert sorted(receipt["files"]) == [
            "lists.csv",
            "lists.parquet",
            "ratings.csv",
            "ratings.parquet",
            "rejects.txt",
            "users.csv",
            "users.parquet",
        ]
        assert str(folder) not in answer.text.replace("journal", "")
        assert client.get(f"/v1/users/{ID}/recommendations").json()["source"] == "popularity"
        assert client.delete(f"/v1/users/{ID}").status_code == 404
        with reading(known_engine) as connection:  # a transaction that ends, so that the log can be cut off
            assert ID not in connection.scalars(select(schema.users.c.user_id)).all()
    # The test's own client logs what it sends, and its uvicorn has an access log, which `recsys serve` turns off.
    logged = [vars(record) for record in caplog.records if record.name.partition(".")[0] in ("recsys", "api", "jobs")]
    assert len(logged) >= 6
    assert not [record for record in logged if ID in repr(record)]
    assert [record["user_hash"] for record in logged if "user_hash" in record] == [receipt["user_hash"]]
    assert files_with(folder, ID.encode(), vector) == []
    if is_sqlite(known_engine):
        assert "nothing is left" in receipt["storage"]
    else:
        assert "VACUUM FULL" in receipt["storage"]
        rewrite_tables(known_engine)
        assert files_with(folder_of_tables(known_engine), ID.encode(), vector) == []
    # Other people's rows are where they were, and the export is still one.
    assert read_manifest(folder / "export") is not None
    assert OTHER in (folder / "csv" / "users.csv").read_text()
    assert OTHER in rejects.read_text()


def test_a_file_that_appears_later_is_cleaned_by_the_same_command(known_engine: Engine, folder: Path) -> None:
    settings = Settings()
    add_person(known_engine)
    export(known_engine, folder, ["users"], "csv")
    (folder / "users.csv").rename(folder / "away")
    assert erase_person(known_engine, ID, settings, actor="test").files == []
    with pytest.raises(NotFoundError):
        erase_person(known_engine, ID, settings, actor="test")
    lists = folder / "lists.csv"
    lists.write_text(f"user_id,rank\n{ID},1\n{OTHER},1\n")
    note_files(known_engine, [lists], "table")
    assert erase_person(known_engine, ID, settings, actor="test").files == [str(lists)]
    assert lists.read_text() == f"user_id,rank\n{OTHER},1\n"


def test_files_out_of_reach_are_named(known_engine: Engine, folder: Path) -> None:
    add_person(known_engine)
    changed, elsewhere = folder / "changed.csv", folder / "elsewhere.csv"
    for path in (changed, elsewhere):
        path.write_text(f"user_id\n{ID}\n")
    note_files(known_engine, [changed, elsewhere], "table")
    os.utime(changed, (2e9, 2e9))
    with writing(known_engine) as connection:
        this = schema.made_files.c.path == str(elsewhere)
        connection.execute(update(schema.made_files).where(this).values(machine="other"))
    receipt = erase_person(known_engine, ID, Settings(), actor="test")
    assert receipt.files == []
    assert (
        f"{changed} on {read_files(known_engine)[0].machine}: it was changed since it was made" in receipt.out_of_reach
    )
    assert f"{elsewhere} on other: another machine made it; run `recsys erase-user` there too" in receipt.out_of_reach
    assert ID in changed.read_text()


def test_a_receipt_over_http_names_no_folder_and_no_machine(known_engine: Engine, folder: Path) -> None:
    add_person(known_engine)
    # Another machine's, one that was changed, one whose reader complains, one that cannot be opened.
    names = ["elsewhere.csv", "changed.csv", "no-column.csv", "no-file.csv"]
    paths = [folder / name for name in names]
    paths[3].mkdir()
    for path in paths[:3]:
        path.write_text(f"{'item_id' if path == paths[2] else 'user_id'}\n{ID}\n")
    note_files(known_engine, paths, "table")
    os.utime(paths[1], (2e9, 2e9))
    with writing(known_engine) as connection:
        this = schema.made_files.c.path == str(paths[0])
        connection.execute(update(schema.made_files).where(this).values(machine="build-host-17"))
    with serving(url_of(known_engine)) as client:
        answer = client.delete(f"/v1/users/{ID}")
    assert answer.json()["out_of_reach"][:4] == [
        "changed.csv: it was changed since it was made",
        "elsewhere.csv: another machine made it; run `recsys erase-user` there too",
        "no-column.csv: it cannot be read or rewritten",
        "no-file.csv: it cannot be read or rewritten",
    ]
    machine = read_files(known_engine)[0].machine
    assert not [each for each in (str(folder), folder.name, "build-host-17", machine) if each in answer.text]


def test_rows_of_others_stay_byte_for_byte(folder: Path) -> None:
    path = folder / "t.csv"
    path.write_bytes(b'item_id,"user_id"\r\n"a\nb","1"\r\n"x, 1","11"\r\n"q""q",1\r\n')
    assert erase_from_table(path, "1") == 2
    assert path.read_bytes() == b'item_id,"user_id"\r\n"x, 1","11"\r\n'
    assert erase_from_table(path, "1") == 0
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column user_id"):
        erase_from_table(path, "1")
    path.write_text("# 7\nf.csv:7: value '17' and 7\nf.csv:7: value '17'\n")
    assert erase_from_rejects(path, "7") == 1
    assert path.read_text() == "# 7\nf.csv:7: value '17'\n"
    assert os.listdir(folder) == ["t.csv"]
