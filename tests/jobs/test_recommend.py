"""Lists from the shell: of one user as the API gives it, and of all users in a file."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from jobs import recommend as job
from recsys.database import schema
from recsys.database.engine import reading
from recsys.database.models import publish
from recsys.database.ratings import delete_rating
from recsys.errors import InputError, NoModelError
from recsys.serving import lists
from recsys.serving.encode import to_item_list
from recsys.serving.snapshot import load_recommender
from recsys.serving.users import read_states
from tests.conftest import add_known_model, add_known_rows
from tests.database.test_models import HEAD
from tests.jobs.cli.test_main import Recsys


def by_user(path: Path) -> dict[str, list[tuple[int, str, float, str]]]:
    lists: dict[str, list[tuple[int, str, float, str]]] = {}
    for row in pq.read_table(path).to_pylist():
        lists.setdefault(row["user_id"], []).append((row["rank"], row["item_id"], row["score"], row["source"]))
    return lists


def one_by_one(engine: Engine, query: job.UserQuery) -> dict[str, list[tuple[int, str, float, str]]]:
    """The lists of all users, each asked for by itself."""
    with reading(engine) as connection:
        user_ids = connection.scalars(select(schema.users.c.user_id)).all()
        recommender = load_recommender(connection)
        model = recommender.list_model()
        by_user_id = {}
        for user_id in user_ids:
            state = read_states(connection, [user_id], recommender.catalogue, model)[user_id]
            listed = to_item_list(
                recommender.catalogue,
                lists.recommend(recommender, model, [state], query.list_query(recommender.catalogue))[0],
            )
            by_user_id[user_id] = [
                (rank, item.item_id, item.score, listed.source) for rank, item in enumerate(listed.items, start=1)
            ]
        return by_user_id


@pytest.mark.parametrize("query", [job.UserQuery(n=3), job.UserQuery(n=10), job.UserQuery(n=2, exclude_seen=False)])
def test_all_lists_are_those_that_each_user_gets(known_engine: Engine, tmp_path: Path, query: job.UserQuery) -> None:
    assert delete_rating(known_engine, "u1", "a") is not None  # nothing is left that u1 rated
    report = job.recommend_all(known_engine, tmp_path / "lists.parquet", query)
    lists = by_user(tmp_path / "lists.parquet")
    assert lists == one_by_one(known_engine, query)
    assert {source for rows in lists.values() for *_, source in rows} == {"model", "fold_in", "popularity"}
    assert (report.users, report.model_version) == (4, 1)
    assert report.rows == sum(len(rows) for rows in lists.values())


def test_chunks_end_anywhere(known_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = one_by_one(known_engine, job.UserQuery())
    for size in (1, 3, 4):
        monkeypatch.setattr(job, "CHUNK_USERS", size)
        job.recommend_all(known_engine, tmp_path / "lists.parquet", job.UserQuery())
        assert by_user(tmp_path / "lists.parquet") == whole


def test_a_neural_version(engine: Engine, tmp_path: Path) -> None:
    add_known_rows(engine)
    publish(engine, add_known_model(engine, "ranking", head=HEAD), "known")
    job.recommend_all(engine, tmp_path / "lists.parquet", job.UserQuery())
    assert by_user(tmp_path / "lists.parquet") == one_by_one(engine, job.UserQuery())


def test_the_file_appears_whole_or_not_at_all(known_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose another path with --out"):
        job.recommend_all(known_engine, tmp_path / "missing" / "lists.parquet", job.UserQuery())
    out = tmp_path / "lists.parquet"
    out.write_text("the last one")

    def fail(*_: object) -> None:
        raise RuntimeError("half way")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(job, "as_table", fail)
        job.recommend_all(known_engine, out, job.UserQuery())
    assert out.read_text() == "the last one"
    assert list(tmp_path.glob(".*part")) == []


def test_no_model_yet(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match="recsys train"):
        job.recommend_all(engine, tmp_path / "lists.parquet", job.UserQuery())


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command(known_engine: Engine, tmp_path: Path) -> None:
    recsys = Recsys(tmp_path, known_engine.url.render_as_string(hide_password=False))
    report = recsys.json("recommend", "--all", "--out", "all.parquet", "--n", "2")
    assert (report["users"], report["file"]) == (4, "all.parquet")
    assert len(by_user(tmp_path / "all.parquet")) == 4
    explained = recsys.json("recommend", "u3", "--explain", "--n", "1")
    assert explained["source"] == "fold_in"
    parts = explained["items"][0]["explanation"]
    total = parts["global_bias"] + parts["user_bias"] + parts["item_bias"] + parts["dot_product"] + parts["layers"]
    assert total == pytest.approx(explained["items"][0]["score"], abs=1e-6)
    assert "because of" in recsys("recommend", "u3", "--explain")
    assert "the user is unknown" in recsys("recommend", "nobody", "--explain")
    assert "give the id of one user, or --all" in recsys("recommend", "u1", "--all", code=2)
