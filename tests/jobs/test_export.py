"""What is exported is loaded back equal, from either database into either."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from jobs.export import export
from jobs.load import load
from recsys.data.encoding import RatingColumns
from recsys.database import schema
from recsys.database.engine import connect, reading
from recsys.database.items import put_items
from recsys.database.models import publish
from recsys.database.ratings import upsert_ratings
from recsys.errors import InputError, MostlyBadError, NoModelError, UsageError
from recsys.files.exported import checksum
from recsys.settings import Settings
from tests.conftest import add_known_item_model, add_known_rows

DATA = ["ratings", "users", "items"]


@pytest.fixture
def full(engine: Engine, tmp_path: Path) -> Engine:
    """The known rows, with events, times before 1970, odd ids, attributes and a user without ratings."""
    add_known_rows(engine)
    attributes = {"price": 2.5, "tags": ["a", "b"], "year": 1979, "stock": None, "text": 'a "b",\n'}
    put_items(engine, {"a": {"attributes": attributes}, 'q",\n': {"title": 'Quo "vadis",\n'}}, actor="test")
    (tmp_path / "events.csv").write_text(
        'user_id,item_id,weight,ts\nu1,"q"",\n",0.30000000000000004,-5\nu1,a,2,\n007,a,7,9\n'
    )
    (tmp_path / "users.csv").write_text("user_id,age,vip,segments\nu1,33,true,a|b\nsilent,,,\n")
    load(engine, tmp_path / "events.csv", Settings(), users=tmp_path / "users.csv")
    return engine


@pytest.fixture
def empty(tmp_path: Path, migrated_sqlite: Path) -> Engine:
    (tmp_path / "other.db").write_bytes(migrated_sqlite.read_bytes())
    return connect(f"sqlite:///{tmp_path / 'other.db'}")


def rows_by_id(engine: Engine) -> list[object]:
    """All that an export holds, without keys."""
    users, items, rated, counts = (each.c for each in (schema.users, schema.items, schema.ratings, schema.item_counts))
    ratings = (
        select(users.user_id, items.item_id, rated.kind, rated.rating, rated.rated_at)
        .join_from(schema.ratings, schema.users, rated.user_key == users.user_key)
        .join(schema.items, rated.item_key == items.item_key)
    )
    counted = select(items.item_id, counts.n_ratings, counts.rating_sum, counts.n_explicit).join_from(
        schema.item_counts, schema.items, counts.item_key == items.item_key
    )
    statements = [
        select(users.user_id, users.categories, users.attributes),
        select(items.item_id, items.title, items.categories, items.attributes, items.hidden),
        ratings,
        counted,
    ]
    with reading(engine) as connection:
        return [sorted(map(repr, connection.execute(statement).all())) for statement in statements]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_an_export_is_loaded_back_equal(full: Engine, empty: Engine, tmp_path: Path, format: str) -> None:
    files = export(full, tmp_path / "out", DATA, format)  # type: ignore[arg-type]
    assert [file.name for file in files] == [
        *(f"{name}.{format}" for name in ("ratings", "events", "users", "items")),
        "export.json",
    ]
    report = load(empty, tmp_path / "out", Settings())
    assert (report.inserted, report.users, report.items) == (9, 6, 8)
    assert rows_by_id(empty) == rows_by_id(full)
    report = load(empty, tmp_path / "out", Settings())
    assert (report.inserted, report.updated, report.unchanged) == (0, 0, 9)
    load(full, tmp_path / "out", Settings())
    assert rows_by_id(empty) == rows_by_id(full)


@pytest.mark.postgres
def test_an_export_of_sqlite_is_loaded_into_postgres(
    sqlite_engine: Engine, postgres_engine: Engine, tmp_path: Path
) -> None:
    add_known_rows(sqlite_engine)
    odd = [
        "=1+1",
        "-7",
        " lead",
        "trail ",
        "ü\u2028x",
        "\ufeffbom",
        "a\r\nb",
        "a\rb",
        '"',
        "\\",
        "#x",
        "None",
        "NA",
        "e\u0301",
    ]
    codes = np.arange(len(odd), dtype=np.int32)
    rated = RatingColumns(
        odd, odd, codes, codes[::-1].copy(), np.full(len(odd), 3.0), codes.astype(np.int64) * 1001 - 5
    )
    upsert_ratings(sqlite_engine, rated)
    put_items(sqlite_engine, {"=1+1": {"title": "=cmd|' /C calc'!A0", "hidden": True}}, actor="test")
    for format in ("parquet", "csv"):
        export(sqlite_engine, tmp_path / format, DATA, format)  # type: ignore[arg-type]
        assert load(postgres_engine, tmp_path / format, Settings()).rejected == 0
        assert rows_by_id(postgres_engine) == rows_by_id(sqlite_engine)


def test_the_scale_of_the_other_database_is_checked_before_anything_is_written(
    sqlite_engine: Engine, empty: Engine, tmp_path: Path
) -> None:
    add_known_rows(sqlite_engine)
    export(sqlite_engine, tmp_path / "out", DATA)
    with pytest.raises(MostlyBadError):
        load(empty, tmp_path / "out", Settings(rating_min=50, rating_max=100))
    assert rows_by_id(empty) == [[], [], [], []]


def test_events_of_an_export_in_a_zip_are_not_passed_over(sqlite_engine: Engine, empty: Engine, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id,ts\nu1,a,1\n")
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\nu1,a,1\nu2,a,4\n")
    for name in ("e.csv", "r.csv"):
        load(sqlite_engine, tmp_path / name, Settings())
    export(sqlite_engine, tmp_path / "out", DATA)
    with pytest.raises(InputError, match=r"an export with events.*unpack"):
        load(empty, Path(shutil.make_archive(str(tmp_path / "out"), "zip", tmp_path / "out")), Settings())


def test_ratings_that_are_all_one_stay_ratings(sqlite_engine: Engine, empty: Engine, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\nu,a,1\nv,a,1\n")
    from recsys.files.options import ReadOptions

    load(sqlite_engine, tmp_path / "r.csv", Settings(), options=ReadOptions(implicit=False))
    export(sqlite_engine, tmp_path / "out", DATA)
    load(empty, tmp_path / "out", Settings())
    assert rows_by_id(empty) == rows_by_id(sqlite_engine)


def test_exports_that_are_damaged_or_of_another_version_load_nothing(
    sqlite_engine: Engine, empty: Engine, tmp_path: Path
) -> None:
    add_known_rows(sqlite_engine)
    out = tmp_path / "out"
    export(sqlite_engine, out, DATA, "csv")
    with pytest.raises(UsageError, match="leave the options of reading out"):
        load(empty, out, Settings(), format="csv")
    manifest = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(InputError, match=r"export of format 2.*install that version"):
        load(empty, out, Settings())
    (out / "export.json").write_text(json.dumps(manifest))
    data = bytearray((out / "items.csv").read_bytes())
    data[-3] ^= 1
    (out / "items.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"items\.csv is not as it was exported, so nothing was loaded"):
        load(empty, out, Settings())
    (out / "items.csv").write_text("name\nx\n")
    told = [file | {"sha256": checksum(out / "items.csv")} for file in manifest["files"] if file["holds"] == "items"]
    (out / "export.json").write_text(json.dumps({**manifest, "files": told}))
    with pytest.raises(InputError, match=r"items\.csv is not what `recsys export` writes"):
        load(empty, out, Settings())
    (out / "export.json").write_text(json.dumps({**manifest, "format": "new"}))
    with pytest.raises(InputError, match="damaged"):
        load(empty, out, Settings())
    (out / "export.json").write_text(json.dumps(manifest))
    (out / "items.csv").unlink()
    with pytest.raises(InputError, match=r"items\.csv cannot be read"):
        load(empty, out, Settings())
    (out / "export.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load(empty, out, Settings())
    assert rows_by_id(empty) == [[], [], [], []]


def test_factors_and_lists_are_those_of_the_live_version(known_engine: Engine, tmp_path: Path) -> None:
    export(known_engine, tmp_path, ["factors", "lists"])
    users = pq.read_table(tmp_path / "user_factors.parquet").to_pydict()
    by_id = dict(zip(users["user_id"], users["vector"], strict=True))
    assert by_id == {"u1": [1.0, 0.0], "u2": [0.0, 1.0], "s/1 ü": [1.0, 1.0]}
    export(known_engine, tmp_path, ["factors"], "csv", 2)
    items = pacsv.read_csv(tmp_path / "item_factors.csv").to_pydict()
    at = items["item_id"].index("c")
    np.testing.assert_allclose([items[name][at] for name in ("bias", "f0", "f1")], [0.5, 0.0, 3.0])
    assert "u1" in pq.read_table(tmp_path / "lists.parquet")["user_id"].to_pylist()


def test_weights_between_items_are_exported(sqlite_engine: Engine, tmp_path: Path) -> None:
    add_known_rows(sqlite_engine)
    with pytest.raises(NoModelError, match="recsys nightly"):
        export(sqlite_engine, tmp_path, ["factors"])
    publish(sqlite_engine, add_known_item_model(sqlite_engine), "known")
    export(sqlite_engine, tmp_path, ["factors"])
    weights = pq.read_table(tmp_path / "item_weights.parquet").to_pydict()
    assert ("a", "b", 0.5) in zip(weights["item_id"], weights["adds_to"], weights["weight"], strict=True)
