"""The lists of all users in a folder: by shares, and again after an interruption."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs import list_parts as job
from jobs.list_parts import Share, recommend_parts
from jobs.recommend import UserQuery
from recsys.database.made_files import read_files
from recsys.database.models import publish
from recsys.errors import InputError
from tests.conftest import add_known_model
from tests.jobs.cli.test_main import Recsys
from tests.jobs.test_recommend import by_user, one_by_one


@pytest.fixture(autouse=True)
def parts_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PART_KEYS", 2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_shares_write_the_lists_that_each_user_gets(known_engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "lists"
    first = recommend_parts(known_engine, folder, UserQuery(n=3), Share(1, 2))
    assert not (folder / job.DONE).exists()
    second = recommend_parts(known_engine, folder, UserQuery(n=3), Share(2, 2))
    lists = one_by_one(known_engine, UserQuery(n=3))
    assert by_user(folder) == lists
    assert (first.files_written, first.files_left, second.files_left) == (1, 1, 0)
    assert first.users + second.users == len(lists)
    assert first.rows + second.rows == sum(map(len, lists.values()))
    assert names(folder) == [job.DONE, job.ABOUT, "part-00000.parquet", "part-00001.parquet"]
    assert {file.path.name for file in read_files(known_engine)} == {"part-00000.parquet", "part-00001.parquet"}


def test_an_interrupted_run_goes_on_where_it_stopped(
    known_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, n_chunks = tmp_path / "lists", 0
    write = job.chunk_lists

    def fail_at_the_second(*arguments: object) -> object:
        nonlocal n_chunks
        n_chunks += 1
        if n_chunks == 2:
            raise KeyboardInterrupt
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "chunk_lists", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        recommend_parts(known_engine, folder, UserQuery())
    kept = (folder / "part-00000.parquet").stat().st_mtime_ns
    assert not (folder / "part-00001.parquet").exists()
    (folder / ".part-00001.parquet.0123456789ab.part").touch()  # as a process that was killed leaves it
    report = recommend_parts(known_engine, folder, UserQuery())
    assert report.files_written == 1
    assert (folder / "part-00000.parquet").stat().st_mtime_ns == kept
    assert not any(name.startswith(".part") for name in names(folder))
    assert by_user(folder) == one_by_one(known_engine, UserQuery())
    assert recommend_parts(known_engine, folder, UserQuery()).files_written == 0


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_folder_of_other_lists_is_refused(known_engine: Engine, tmp_path: Path) -> None:
    recommend_parts(known_engine, tmp_path, UserQuery())
    with pytest.raises(InputError, match="holds lists with other options"):
        recommend_parts(known_engine, tmp_path, UserQuery(n=3))
    number = add_known_model(known_engine, "ranking")
    publish(known_engine, number, "a test")
    with pytest.raises(InputError, match=f"holds lists of model version 1, and these are of version {number}"):
        recommend_parts(known_engine, tmp_path, UserQuery())
    (tmp_path / job.ABOUT).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        recommend_parts(known_engine, tmp_path, UserQuery())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder with --out"):
        recommend_parts(known_engine, tmp_path / "file", UserQuery())


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_share_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="such as 2/4"):
        Share.parse(text)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command(known_engine: Engine, tmp_path: Path) -> None:
    recsys = Recsys(tmp_path, known_engine.url.render_as_string(hide_password=False))
    report = recsys.json("recommend", "--all", "--out", "lists", "--share", "1/1")
    assert (report["users"], report["files_left"], report["file"]) == (4, 0, "lists")
    assert json.loads((tmp_path / "lists" / job.ABOUT).read_text())["model_version"] == "1"
    assert "expected a folder" in recsys("recommend", "--all", "--out", "lists.txt", code=2)
    assert "with a folder" in recsys("recommend", "--all", "--share", "1/2", code=2)
