"""A new item copies its own row, and not the rows of all others; snapshots of before stay as they were."""

import tracemalloc

import numpy as np
import pytest

from recsys.database.items import StoredItem
from recsys.database.models import ModelVersion, Training
from recsys.factors import Factors, FeatureEmbeddings, Side
from recsys.serving.catalogue import Catalogue
from recsys.serving.growing import GrowingIds, GrowingList, GrowingRows
from recsys.serving.live_model import LiveModel
from recsys.serving.snapshot import Recommender

N_FACTORS = 64
FEATURES = FeatureEmbeddings(
    ("category: Drama",), np.zeros(N_FACTORS, np.float32), np.ones((1, N_FACTORS), np.float32), np.ones(1, np.float32)
)
TRAINING = Training("dot", {}, {}, {}, [], "-", 0, 1, (1.0, 5.0), 0.1, gate_passed=True, gate_reason="-")


def snapshot(n_items: int) -> Recommender:
    random = np.random.default_rng(0)
    keys = np.arange(n_items) + 1
    items = [StoredItem(int(key), f"i{key}", f"Title {key}", ["Drama"], {}, False) for key in keys]
    catalogue = Catalogue.from_items(items, (keys, keys, keys.astype(float)))
    rows = random.normal(size=(2, n_items, N_FACTORS)).astype(np.float32)
    factors = Factors(
        objective="ranking",
        items=Side(keys, rows[0], np.zeros(n_items, np.float32), rows[1], FEATURES),
        users=Side.empty(N_FACTORS),
    )
    version = ModelVersion(1, "ranking", TRAINING, 0, n_items, N_FACTORS, 0.0, None, 0, live=True)
    return Recommender(catalogue, {"ranking": LiveModel.from_version(version, factors, catalogue)})


def new_item(key: int) -> StoredItem:
    return StoredItem(key, f"i{key}", "New", ["Drama"], {}, False)


def test_a_new_item_copies_no_vectors() -> None:
    n_items = 20_000
    now = snapshot(n_items)
    vectors = now.models["ranking"].item_factors
    assert vectors.nbytes == 5_120_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        after = now.with_items([new_item(n_items + 1)])
        renamed = after.with_items([new_item(n_items + 1)._replace(title="Renamed")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (
        peak - before < 200 * n_items
    )  # masks, biases and lists, twice; one copy of the vectors has 256 bytes an item
    for later in (after, renamed):
        assert np.shares_memory(later.models["ranking"].item_factors, vectors)
        assert later.models["ranking"].item_factors[-1].tolist() == [1.0] * N_FACTORS
        assert later.catalogue.idx_of[f"i{n_items + 1}"] == n_items


def test_snapshots_of_before_stay_as_they_were() -> None:
    base = snapshot(3)
    rows = base.models["ranking"].item_factors.copy()
    long = base
    for key in range(4, 1400):  # more than there is room for, and more ids than are kept beside the others
        long = long.with_items([new_item(key)])
    other = base.with_items([new_item(9999)._replace(categories=[])])  # another item at the same position
    changed = long.with_items([new_item(4)._replace(categories=[])])
    assert (base.catalogue.n_items, "i4" in base.catalogue.idx_of) == (3, False)
    np.testing.assert_array_equal(base.models["ranking"].item_factors, rows)
    for snap, first_new in ((long, 1.0), (other, 0.0), (changed, 0.0)):
        model = snap.models["ranking"]
        np.testing.assert_array_equal(model.item_factors[:3], rows)
        assert model.item_factors[3].tolist() == [first_new] * N_FACTORS
        assert len(model.factors.items.implicit) == len(model.item_bias) == snap.catalogue.n_items  # type: ignore[arg-type]
        assert list(snap.catalogue.idx_of) == [item.item_id for item in snap.catalogue.items]
        assert list(snap.catalogue.idx_of.values()) == list(range(snap.catalogue.n_items))
    assert (long.models["ranking"].item_factors[3:] == 1).all()
    assert np.isneginf(changed.models["ranking"].item_bias[3])


def test_an_item_that_is_there_as_it_is_changes_nothing() -> None:
    base = snapshot(3)
    assert base.with_items([base.catalogue.items[1]]) is base


@pytest.mark.parametrize("by_column", [False, True])
def test_rows_that_do_not_fit_are_copied(by_column: bool) -> None:
    rows = GrowingRows(2, 3, by_column=by_column)
    rows.first(2)[:] = 5
    more = np.full((1000, 3), 7, np.float32)
    longer = rows.append(2, more)
    assert longer is not rows
    assert longer.append(1002, more[:5]) is longer
    assert longer.first(1007).mean(1).tolist() == [5.0] * 2 + [7.0] * 1005


def test_ids_are_a_mapping() -> None:
    ids = GrowingIds({"a": 0}).with_more({"b": 1})
    assert dict(ids) == {"a": 0, "b": 1}
    assert (len(ids), ids.get("c"), ids.get("b"), "a" in ids, "c" in ids) == (2, None, 1, True, False)
    with pytest.raises(KeyError):
        ids["c"]


def test_a_list_with_more_shares_its_values_until_it_is_continued_in_two_ways() -> None:
    base = GrowingList(["a", "b"])
    first, second = base.with_more(["c"]), base.with_more(["d", "e"])
    changed = first.with_changes({0: "A"})
    lists = [list(each) for each in (base, first, second, changed)]
    assert lists == [["a", "b"], ["a", "b", "c"], ["a", "b", "d", "e"], ["A", "b", "c"]]
    assert first._values is base._values
    assert (len(base), base[-1], base[0:5], base[::-1]) == (2, "b", ["a", "b"], ["b", "a"])
    for position in (2, -3):
        with pytest.raises(IndexError):
            _ = base[position]


def test_titles_in_lists_are_those_of_the_snapshot() -> None:
    base = snapshot(3).catalogue
    one, other = (base.with_items([new_item(4)._replace(title=title)]) for title in ("One", "Other"))
    renamed = one.with_items([one.items[0]._replace(title="Renamed")])
    for catalogue in (one, other, renamed, one):
        for position in range(4):
            title = catalogue.items[position].title
            assert f'"title":"{title}"'.encode() in catalogue.json_prefix(position)
