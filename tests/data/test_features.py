"""Features of rows that are known: which there are, who has them, and what is left out."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select

from recsys.data.features import MAX_FEATURES_PER_KIND, Features, build_features, build_features_of_rows
from recsys.data.rows import ItemRow, UserRow
from recsys.database import schema
from recsys.database.engine import reading
from recsys.database.features import read_item_features, read_user_features
from recsys.database.items import upsert_items
from recsys.database.users import upsert_users
from recsys.files.source import open_source


def of_attributes(*rows: Mapping[str, object], min_rows: int = 1) -> Features:
    """Features of rows with these attributes, and of one without any: nothing is of every row."""
    return build_features(range(len(rows) + 1), [()] * (len(rows) + 1), [*rows, {}], min_rows=min_rows)


def named(found: Features) -> list[set[str]]:
    """The names of each row's features."""
    assert found.starts.dtype == found.keys.dtype == np.int64
    assert found.idx.dtype == np.int32
    assert len(found.starts) == found.n_rows + 1
    assert found.starts[0] == 0
    assert found.starts[-1] == len(found.idx)
    rows = [found.idx[start:stop].tolist() for start, stop in zip(found.starts[:-1], found.starts[1:], strict=True)]
    assert all(row == sorted(set(row)) for row in rows)
    return [{found.names[i] for i in row} for row in rows]


def test_categories_and_years_by_decade() -> None:
    categories = [("Comedy", "Drama"), ("Comedy",), (), ("War", "War")]
    attributes: list[dict[str, object]] = [{"year": 1990}, {"year": 1999}, {"year": 2000.0}, {}]
    found = build_features([3, 5, 8, 9], categories, attributes, min_rows=1)
    assert found.names == ("category: Comedy", "category: Drama", "category: War", "year: 1990s", "year: 2000s")
    assert found.keys.tolist() == [3, 5, 8, 9]
    assert named(found) == [
        {"category: Comedy", "category: Drama", "year: 1990s"},
        {"category: Comedy", "year: 1990s"},
        {"year: 2000s"},
        {"category: War"},
    ]


def test_text_truth_and_lists() -> None:
    found = of_attributes(
        {"job": "writer", "member": True, "likes": ["tea", "tea", 7, None]},
        {"job": "Writer", "member": False, "likes": []},
        {"job": None, "size": "XL", "other": {"nested": 1}},
        {"size": 42, "likes": ("tea",)},
        {"size": "42", "x": float("nan")},
    )
    assert named(found) == [
        {"job: writer", "member: true", "likes: tea", "likes: 7"},
        {"job: Writer", "member: false"},
        {"size: XL"},
        {"size: 42", "likes: tea"},
        {"size: 42"},
        set(),
    ]
    assert [name for name in found.names if name.startswith("likes")] == ["likes: 7", "likes: tea"]


def test_numbers_that_no_float_can_hold_are_left_out() -> None:
    found = of_attributes({"n": 10**400}, {"n": -(10**400)}, {"n": float("inf")}, {"n": 7})
    assert named(found) == [set(), set(), set(), {"n: 7"}, set()]


def test_few_numbers_are_values_of_their_own_and_ascend() -> None:
    found = of_attributes(*({"n": value} for value in (10, 9, 2.5, -1)))
    assert found.names == ("n: -1", "n: 2.5", "n: 9", "n: 10")


def test_many_numbers_go_into_bins_between_deciles() -> None:
    ages = [*range(1, 101)]
    found = of_attributes(*({"age": age} for age in ages))
    assert found.names == tuple(f"age: {low} to {low + 9}" for low in range(1, 101, 10))
    assert named(found)[:11] == [{"age: 1 to 10"}] * 10 + [{"age: 11 to 20"}]
    assert np.diff(found.starts).tolist() == [1] * 100 + [0]


def test_equal_numbers_are_never_parted() -> None:
    found = of_attributes(*({"n": 0} for _ in range(75)), *({"n": n / 2} for n in range(1, 26)))
    assert found.names == ("n: 0", "n: 0.5 to 2.5", "n: 3 to 7.5", "n: 8 to 12.5")
    counts = np.bincount(found.idx)
    assert counts.tolist() == [75, 5, 10, 10]


def test_what_too_few_rows_have_or_all_is_left_out() -> None:
    rows: list[dict[str, object]] = [
        {"everybody": "x", "zip": str(i), "rare": "no" if i < 4 else "yes"} for i in range(10)
    ]
    found = build_features(range(10), [()] * 10, rows)
    assert found.names == ("rare: yes",)
    assert build_features(range(10), [()] * 10, rows, min_rows=4).names == ("rare: no", "rare: yes")


def test_the_most_frequent_of_a_kind_stay() -> None:
    n = MAX_FEATURES_PER_KIND
    tags = [[f"t{i:05}"] for i in range(n + 50)]
    found = build_features(range(2 * n), [*tags, *tags[100 : n + 50]], [{}] * (2 * n), min_rows=1)
    assert found.n_features == n
    # Once in all are the first hundred: fifty of them stay, the first by name.
    assert found.names == (
        *(f"category: t{i:05}" for i in range(50)),
        *(f"category: t{i:05}" for i in range(100, n + 50)),
    )


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    n = 300
    categories = [[f"c{i}" for i in rng.permutation(8)[: rng.integers(4)]] for _ in range(n)]
    attributes = [
        {"year": int(rng.integers(1920, 2020)), "age": int(rng.integers(90)), "job": f"j{rng.integers(9)}"}
        for _ in range(n)
    ]
    straight = build_features(range(n), categories, attributes)
    order = rng.permutation(n)
    shuffled = build_features(
        order,
        [categories[i][::-1] for i in order],
        [dict(reversed(attributes[i].items())) for i in order],
    )
    assert straight.n_features > 20
    assert_equal(straight, shuffled)


def assert_equal(one: Features, other: Features) -> None:
    assert one.names == other.names
    for name in ("keys", "starts", "idx"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


class TestOf:
    found = build_features([2, 4, 6], [("a", "b"), ("b", "c"), ()], [{}, {}, {}], min_rows=1)

    def test_rows_of_some_keys(self) -> None:
        some = self.found.of(np.array([4, 6]))
        assert some.names == self.found.names
        assert some.keys.tolist() == [4, 6]
        assert named(some) == [{"category: b", "category: c"}, set()]

    def test_unknown_keys_have_none(self) -> None:
        some = self.found.of(np.array([1, 2, 3, 4, 7]))
        assert named(some) == [set(), {"category: a", "category: b"}, set(), {"category: b", "category: c"}, set()]

    def test_all_and_none(self) -> None:
        assert_equal(self.found.of(self.found.keys), self.found)
        assert named(self.found.of(np.array([], np.int64))) == []

    @pytest.mark.parametrize("keys", [[4, 2], [2, 2]])
    def test_keys_that_do_not_ascend(self, keys: Sequence[int]) -> None:
        with pytest.raises(ValueError, match="not ascending"):
            self.found.of(np.array(keys))


def test_an_empty_catalogue() -> None:
    found = build_features([], [], [])
    assert (found.n_rows, found.n_features, found.names, named(found)) == (0, 0, (), [])
    assert named(found.of(np.array([1, 2]))) == [set(), set()]
    assert named(build_features([1], [("a",)], [{}])) == [set()]


def test_hundred_thousands_of_rows_take_seconds() -> None:
    rng = np.random.default_rng(1)
    n = 162_000
    ages, jobs, zips = (rng.integers(high, size=n).tolist() for high in (90, 21, 40_000))
    attributes = [
        {"age": age, "job": f"j{job}", "zip": f"{code:05}"} for age, job, code in zip(ages, jobs, zips, strict=True)
    ]
    started = time.perf_counter()
    found = build_features(range(n), [()] * n, attributes)
    assert time.perf_counter() - started < 10
    assert found.n_rows == n
    assert [name for name in found.names if name.startswith("job")] == sorted(f"job: j{job}" for job in range(21))


ITEMS = [
    ItemRow("a", "Alien (1979)", ("Horror", "Sci-Fi"), 1979),
    ItemRow("b", "Brazil (1985)", ("Sci-Fi",), 1985),
    ItemRow("c", None, (), None),
]
USERS = [UserRow("u", ("x",), {"age": 24}), UserRow("v", (), {"age": 30, "member": True})]


class TestDatabase:
    def test_every_row_is_there_rated_or_not(self, known_engine: Engine) -> None:
        with reading(known_engine) as connection:
            found = read_item_features(connection, min_rows=2)
            keys = connection.scalars(select(schema.items.c.item_key).order_by(schema.items.c.item_key)).all()
            users = read_user_features(connection)
        assert found.keys.tolist() == list(keys)
        assert found.names == ("category: Drama", "category: Sci-Fi")
        assert named(found)[:3] == [{"category: Sci-Fi"}, {"category: Sci-Fi"}, {"category: Drama"}]
        assert (users.n_rows, users.n_features) == (4, 0)

    def test_users(self, engine: Engine) -> None:
        upsert_users(engine, USERS)
        with reading(engine) as connection:
            found = read_user_features(connection, min_rows=1)
        assert named(found) == [{"category: x", "age: 24"}, {"age: 30", "member: true"}]

    def test_an_empty_database(self, engine: Engine) -> None:
        with reading(engine) as connection:
            for found in (read_item_features(connection), read_user_features(connection)):
                assert (found.n_rows, found.n_features) == (0, 0)

    def test_files_and_database_agree_whatever_the_order(self, engine: Engine) -> None:
        upsert_items(engine, ITEMS[::-1])
        with reading(engine) as connection:
            stored = read_item_features(connection, min_rows=1)
        straight = build_features_of_rows(ITEMS, {"c": 0, "b": 1, "a": 2}, min_rows=1)
        assert stored.names == straight.names
        assert named(stored) == named(straight)


def test_rows_of_a_file_by_positions_and_those_without_one_left_out() -> None:
    found = build_features_of_rows(ITEMS, {"nobody": 0, "c": 2, "a": 5}, min_rows=1)
    assert found.keys.tolist() == [2, 5]
    assert named(found) == [set(), {"category: Horror", "category: Sci-Fi", "year: 1970s"}]
    assert named(build_features_of_rows(USERS, {"v": 0, "u": 1}, min_rows=1))[0] == {"age: 30", "member: true"}
    assert build_features_of_rows([], {"a": 0}).n_rows == 0


@pytest.mark.shared_data
def test_movielens_100k(shared_data: Path) -> None:
    source = open_source(shared_data / "ml-100k.zip")
    users, items = source.users(lambda _: None), source.items(lambda _: None)
    of_users = build_features_of_rows(users, {row.user_id: i for i, row in enumerate(users)})
    of_items = build_features_of_rows(items, {row.item_id: i for i, row in enumerate(items)})
    kinds = [name.split(":")[0] for name in of_users.names]
    assert {kind: kinds.count(kind) for kind in kinds} == {"age": 10, "gender": 2, "occupation": 21, "zip_code": 5}
    assert {"age: 24 to 26", "gender: F", "occupation: writer"} <= set(of_users.names)
    assert named(of_users)[0] == {"age: 24 to 26", "gender: M", "occupation: technician"}
    assert {"category: Film-Noir", "year: 1930s", "year: 1990s"} <= set(of_items.names)
    # Two items are of no known genre, two of the 1920s.
    assert not {"category: unknown", "year: 1920s"} & set(of_items.names)
