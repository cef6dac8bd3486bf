"""The snapshot that answers now: swapped whole, patched as a reload would have it, true to the file that is there."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from recsys.database import schema
from recsys.database.changes import record_change
from recsys.database.engine import connect, writing
from recsys.database.feedback import NewRating
from recsys.database.ids import item_keys
from recsys.database.items import put_item
from recsys.database.models import publish
from recsys.database.posts import rate
from recsys.database.users import erase_user
from recsys.factors import FeatureEmbeddings
from recsys.serving import lists
from recsys.serving.batching import read_users
from recsys.serving.encode import to_item_list
from recsys.serving.refresh import LiveRecommender
from recsys.serving.snapshot import Recommender, load_models
from tests.conftest import add_known_model, add_known_rows, wait_until
from tests.serving.made import load, pairs

FEATURES = FeatureEmbeddings(
    names=("category: Drama", "category: Sci-Fi", "year: 1980s"),
    base=np.zeros(2, np.float32),
    vectors=np.array([[0, 1], [2, 0], [0.25, 0]], np.float32),
    bias=np.array([0.5, 0.25, 0], np.float32),
)


@pytest.fixture
def live(known_engine: Engine) -> Iterator[LiveRecommender]:
    """Refreshed by the test alone, and right after it was made."""
    made = LiveRecommender(known_engine, refresh_seconds=3600)
    made.refresh()
    yield made
    known_engine.dispose()


def no_one(users: object, seq: int) -> None:
    pass


def same(patched: Recommender, loaded: Recommender, *, counts: bool = True) -> None:
    """Two snapshots answer alike."""
    assert list(patched.catalogue.items) == list(loaded.catalogue.items)
    for name in ("item_keys", "hidden", *(("n_ratings", "mean_rating") if counts else ())):
        assert getattr(patched.catalogue, name).tolist() == getattr(loaded.catalogue, name).tolist(), name
    assert dict(patched.catalogue.idx_of) == dict(loaded.catalogue.idx_of)
    for words in ("", "a", "19", "aardvark 1984", "zz"):
        assert patched.catalogue.search(words, 1000) == loaded.catalogue.search(words, 1000)
    of_patched, of_loaded = patched.catalogue.idx_by_category, loaded.catalogue.idx_by_category
    assert {name: places.tolist() for name, places in of_patched.items()} == {
        name: places.tolist() for name, places in of_loaded.items()
    }
    assert list(patched.models) == list(loaded.models)
    for objective, model in patched.models.items():
        other = loaded.models[objective]
        assert model.number == other.number
        for name in ("item_factors", "item_bias", "list_bias", "trained"):
            np.testing.assert_array_equal(getattr(model, name), getattr(other, name), err_msg=name)
        assert model.item_factors.flags.f_contiguous == other.item_factors.flags.f_contiguous


class TestItems:
    @pytest.mark.parametrize("with_features", [False, True])
    def test_changes_one_by_one_make_what_a_full_reload_makes(self, engine: Engine, with_features: bool) -> None:
        add_known_rows(engine)
        for objective in ("ranking", "rating"):
            features = FEATURES if with_features else None
            publish(engine, add_known_model(engine, objective, item_features=features), "test")
        live = LiveRecommender(engine, refresh_seconds=3600)
        live.refresh()
        changes: list[tuple[str, dict[str, object]]] = [
            ("n1", {"title": "Aardvark", "categories": ["Sci-Fi"], "attributes": {"year": 1984}}),
            ("n2", {}),
            ("a", {"title": "Zzz", "categories": ["Drama"]}),
            ("n2", {"categories": ["Drama", "Sci-Fi"]}),
            ("hidden", {"hidden": False}),
            ("c", {"hidden": True}),
            ("new", {"categories": ["Unheard of"]}),
            ("n1", {"title": None}),
            ("d/ä", {"attributes": {"year": 1991, "colour": ["red", "blue"]}}),
        ]
        before = live.current
        for item_id, given in changes:
            put_item(engine, item_id, given, actor="test")
            live.refresh()
            same(live.current, load(engine))
        same(before, before)  # an old snapshot stays as it was
        assert before.catalogue.items[0].title == "Alien (1979)"
        assert before.catalogue.n_items == 7
        for item_id, given in changes:  # the same again, all in one go
            put_item(engine, item_id, given, actor="test")
        live.refresh()
        same(live.current, load(engine))
        known = live.current.models["ranking"].known
        place = live.current.catalogue.idx_of
        assert known[[place["n1"], place["n2"]]].tolist() == [with_features, with_features]

    def test_the_row_of_a_new_item_is_the_sum_of_its_features(self, engine: Engine) -> None:
        add_known_rows(engine)
        publish(engine, add_known_model(engine, "ranking", item_features=FEATURES), "test")
        live = LiveRecommender(engine, refresh_seconds=3600)
        live.refresh()
        put_item(engine, "n1", {"categories": ["Sci-Fi", "Comedy"], "attributes": {"year": 1984}}, actor="test")
        live.refresh()
        model, place = live.current.models["ranking"], live.current.catalogue.idx_of["n1"]
        assert model.item_factors[place].tolist() == [2.25, 0.0]
        assert model.item_bias[place] == 0.25
        assert not model.trained[place]

    def test_nothing_changed_is_the_same_snapshot(self, live: LiveRecommender) -> None:
        before = live.current
        live.refresh()
        assert live.current is before


class TestUsers:
    def test_what_changed_elsewhere_is_forgotten(self, live: LiveRecommender, known_engine: Engine) -> None:
        model = live.current.list_model()
        read_users(known_engine, live.users, ["u1", "u2", "s/1 ü"], live.current.catalogue, model)
        assert len(live.users) == 3
        rate(known_engine, [NewRating("u1", "b", 3.0, None)], None, no_one)
        erase_user(known_engine, "u2", actor="test")
        assert live.users.get(1, "u1") is not None  # nobody told this one yet
        live.refresh()
        assert [live.users.get(1, user_id) is not None for user_id in ("u1", "u2", "s/1 ü")] == [False, False, True]
        with writing(known_engine) as connection:
            record_change(connection)  # as a bulk load does
        live.refresh()
        assert len(live.users) == 0

    def test_a_state_read_before_a_change_is_not_kept_after_it(
        self, live: LiveRecommender, known_engine: Engine
    ) -> None:
        catalogue, model = live.current.catalogue, live.current.list_model()
        states = read_users(known_engine, live.users, ["u1"], catalogue, model)
        rate(known_engine, [NewRating("u1", "b", 3.0, None)], None, live.users.forget)
        live.users.put(1, "u1", states["u1"])  # a slow reader
        assert live.users.get(1, "u1") is None


class TestVersions:
    def test_a_published_version_is_swapped_in(self, live: LiveRecommender, known_engine: Engine) -> None:
        before = live.current
        number = add_known_model(known_engine, "ranking", sign=-1.0)
        live.refresh()
        assert live.current is before  # stored, but not live
        publish(known_engine, number, "test")
        live.refresh()
        assert {objective: model.number for objective, model in live.current.models.items()} == {
            "ranking": number,
            "rating": 2,
        }
        assert live.current.models["rating"] is before.models["rating"]
        assert before.models["ranking"].number == 1
        assert live.current.catalogue is before.catalogue
        same(live.current, load(known_engine))

    def test_a_snapshot_never_mixes_two_versions(self, live: LiveRecommender, known_engine: Engine) -> None:
        """Lists that are made while versions are swapped are those of one of them, and say of which."""
        numbers = [1, add_known_model(known_engine, "ranking", sign=-1.0)]
        expected = {
            1: [("b", 2.0), ("c", 0.5), ("e", 0.5), ("d/ä", 0.0)],
            numbers[1]: [("c", 0.5), ("d/ä", 0.0), ("e", -1.5), ("b", -2.0)],
        }
        stop, seen, wrong = threading.Event(), set(), []

        def ask() -> None:
            while not stop.is_set():
                recommender = live.current
                model = recommender.list_model()
                state = live.users.get(model.number, "u1")
                if state is None:
                    read = read_users(known_engine, live.users, ["u1"], recommender.catalogue, model)
                    state = read["u1"]
                (listed,) = lists.recommend(recommender, model, [state])
                answer = to_item_list(recommender.catalogue, listed)
                seen.add(answer.model_version)
                if pairs(answer) != expected.get(answer.model_version or 0):
                    wrong.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            publish(known_engine, numbers[(turn + 1) % 2], "test")
            live.refresh()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert seen == set(numbers)


def test_changes_are_respected_while_a_version_is_being_loaded(
    known_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading takes seconds with a large catalogue, and what another process stored meanwhile must count."""
    live, loading, go_on = LiveRecommender(known_engine, refresh_seconds=0.02), threading.Event(), threading.Event()
    live.start()

    def load_slowly(*arguments: Any) -> Any:
        loading.set()
        go_on.wait(20)
        return load_models(*arguments)

    def is_hidden(item_id: str) -> bool:
        catalogue = live.current.catalogue
        return bool(catalogue.hidden[catalogue.idx_of[item_id]])

    monkeypatch.setattr("recsys.serving.refresh.load_models", load_slowly)
    try:
        publish(known_engine, add_known_model(known_engine, "ranking"), "newer")
        assert loading.wait(10)
        read_users(known_engine, live.users, ["u1", "u2"], live.current.catalogue, live.current.list_model())
        assert len(live.users) == 2
        rate(known_engine, [NewRating("u1", "b", 3.0, None)], None, no_one)  # by another process
        wait_until(lambda: len(live.users) == 1, 5)
        put_item(known_engine, "c", {"hidden": True}, actor="test")
        wait_until(lambda: is_hidden("c"), 5)
        put_item(
            known_engine, "b", {"hidden": True}, actor="test"
        )  # by this process, which does not wait for the version
        live.refresh_items(item_keys(known_engine, ["b"]).tolist())
        assert is_hidden("b")
        go_on.set()
        wait_until(lambda: live.current.list_model().number == 3, 10)  # type: ignore[union-attr]
        assert is_hidden("b")
        assert is_hidden("c")
    finally:
        go_on.set()
        live.stop()


class TestCounts:
    def test_they_follow_in_a_while(
        self, live: LiveRecommender, known_engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rate(known_engine, [NewRating("x", "e", 2.0, None), NewRating("y", "e", 3.0, None)], None, no_one)
        live.refresh()
        place = live.current.catalogue.idx_of["e"]
        assert live.current.catalogue.n_ratings[place] == 0  # not counted with every rating
        monkeypatch.setattr("recsys.serving.refresh.COUNTS_SECONDS", -1)
        live.refresh()
        assert (live.current.catalogue.n_ratings[place], live.current.catalogue.mean_rating[place]) == (2, 2.5)
        same(live.current, load(known_engine))
        before = live.current
        live.refresh()
        assert live.current is before  # nothing rated since

    def test_a_bulk_load_reads_all_anew(self, live: LiveRecommender, known_engine: Engine) -> None:
        rate(known_engine, [NewRating("x", "e", 2.0, None)], None, no_one)
        with writing(known_engine) as connection:
            connection.execute(update(schema.items).values(title="Same"))
            record_change(connection)
        live._load_seconds = 0.0
        live.refresh()
        same(live.current, load(known_engine))


class TestFile:
    """SQLite: the file is removed, or another one put in its place, as from a backup."""

    @pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("newer", [False, True])
    def test_a_replaced_file_is_read_anew(
        self, live: LiveRecommender, known_engine: Engine, tmp_path: Path, migrated_sqlite: Path, newer: bool
    ) -> None:
        path = Path(str(known_engine.url.database))
        read_users(known_engine, live.users, ["u1"], live.current.catalogue, live.current.list_model())
        other = tmp_path / "other.db"
        shutil.copy(migrated_sqlite, other)
        engine = connect(f"sqlite:///{other}")
        add_known_rows(engine)
        publish(engine, add_known_model(engine, "ranking", sign=-1.0), "test")
        with writing(engine) as connection:
            connection.execute(update(schema.items).where(schema.items.c.item_id == "a").values(title="Other"))
        for turn in range(20 if newer else 0):  # further changes than the first file has seen
            put_item(engine, "b", {"title": f"Brazil {turn}"}, actor="test")
        expected = load(engine)
        engine.dispose()
        known_engine.dispose()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        other.replace(path)
        live._load_seconds = 0.0
        live.refresh()
        assert live.problem is None
        same(live.current, expected)
        model = live.current.list_model()
        assert live.users.get(1, "u1") is None
        read = read_users(known_engine, live.users, ["u1"], live.current.catalogue, model)
        assert pairs(to_item_list(live.current.catalogue, lists.recommend(live.current, model, [read["u1"]])[0]))[
            0
        ] == ("c", 0.5)
        assert live.users.get(1, "u1") is not None  # the cache is of use again

    @pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
    def test_a_removed_file_is_a_problem_until_it_is_back(self, live: LiveRecommender, known_engine: Engine) -> None:
        path = Path(str(known_engine.url.database))
        before = live.current
        path.rename(path.with_suffix(".away"))
        live.refresh()
        assert live.problem is not None
        assert "recsys init" in live.problem
        assert str(path) not in live.problem
        assert live.current is before
        path.with_suffix(".away").rename(path)
        live.refresh()
        assert live.problem is None


def test_an_item_stored_during_a_bulk_load_is_served_at_once(live: LiveRecommender, known_engine: Engine) -> None:
    """While a bulk load changes everything, a refresh postpones reading the catalogue; a stored item does not wait."""
    live._load_seconds = 3600.0  # so that no refresh may load everything again
    with writing(known_engine) as connection:
        record_change(connection)
    live.refresh()
    new, _ = put_item(known_engine, "fresh", {"title": "Fresh"}, actor="test")
    hidden, _ = put_item(known_engine, "b", {"hidden": True}, actor="test")
    live.refresh()
    catalogue = live.refresh_items([new.item_key, hidden.item_key]).catalogue
    assert catalogue.item(catalogue.require("fresh")).title == "Fresh"
    assert catalogue.item(catalogue.require("b")).hidden
    assert live.current.catalogue is catalogue
