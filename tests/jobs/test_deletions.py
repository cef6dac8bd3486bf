"""Rows of a file that take feedback back: `--map deleted=COLUMN`."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.load import load
from recsys.database.counts import read_counts, recount
from recsys.database.engine import reading
from recsys.errors import InputError
from recsys.files.options import ReadOptions
from recsys.results import LoadReport
from recsys.settings import Settings
from tests.database.test_ratings import stored

HEADER = "user_id,item_id,rating,rated_at,gone\n"
T = 1_700_000_000


def load_rows(engine: Engine, path: Path, rows: str, *, implicit: bool = False, dry_run: bool = False) -> LoadReport:
    path.write_text(HEADER + rows)
    options = ReadOptions(implicit=implicit or None)
    return load(engine, path, Settings(), columns={"deleted": "gone"}, options=options, dry_run=dry_run)


def test_a_deleted_row_takes_the_rating_back_and_no_older_file_returns_it(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    before = f"u,a,4,{T},0\nu,b,3,{T},false\nv,a,2,{T},\nw,a,5,{T + 50},\n"
    assert load_rows(engine, path, before).inserted == 4
    changes = f"u,a,,{T + 9},true\nv,a,2,{T + 9},2026-01-31 10:00\nw,a,5,{T},1\nx,c,1,{T},yes\n"
    foretold = load_rows(engine, path, changes, dry_run=True)
    assert len(stored(engine)) == 4
    report = load_rows(engine, path, changes)
    assert (foretold.deleted, foretold.unchanged) == (report.deleted, report.unchanged)
    assert (report.rows_read, report.deleted, report.unchanged, report.rejected) == (4, 2, 2, 0)
    assert set(stored(engine)) == {("u", "b"), ("w", "a")}  # w's rating is newer than its deletion
    assert load_rows(engine, path, changes).deleted == 0
    assert load_rows(engine, path, before).withdrawn == 2
    assert load_rows(engine, path, f"u,a,1,{T + 10},0\n").inserted == 1
    with reading(engine) as connection:
        assert read_counts(connection).n_ratings.tolist() == [2, 1]
    assert recount(engine) == 0


def test_within_a_file_the_latest_row_counts(engine: Engine, tmp_path: Path) -> None:
    rows = f"u,a,4,{T},0\nu,a,4,{T + 1},1\nu,b,3,{T + 5},0\nu,b,3,{T},1\nv,a,3,,0\nv,a,3,,1\nv,b,3,,1\nv,b,3,,0\n"
    assert load_rows(engine, tmp_path / "r.csv", rows).inserted == 2
    assert set(stored(engine)) == {("u", "b"), ("v", "b")}


def test_a_deletion_takes_back_the_events_before_it(engine: Engine, tmp_path: Path) -> None:
    rows = f"u,a,2,{T},0\nu,a,1,{T + 1},1\nu,a,3,{T + 2},0\nu,b,1,{T},0\n"
    assert load_rows(engine, tmp_path / "r.csv", rows, implicit=True).inserted == 2
    assert {pair: weight for pair, (weight, _) in stored(engine).items()} == {("u", "a"): 3.0, ("u", "b"): 1.0}
    last = f"u,a,1,{T + 3},1\n"
    assert load_rows(engine, tmp_path / "r.csv", last, implicit=True, dry_run=True).deleted == 1
    assert load_rows(engine, tmp_path / "r.csv", last, implicit=True).deleted == 1
    assert set(stored(engine)) == {("u", "b")}


def test_an_unknown_column_is_named(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\nu,a,3\n")
    with pytest.raises(InputError, match="deleted=gone names a column that does not exist"):
        load(engine, tmp_path / "r.csv", Settings(), columns={"deleted": "gone"})
