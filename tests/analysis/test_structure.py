"""Neighbours, clusters, maps, categories and comparisons on models whose structure is known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.analysis import cells
from recsys.analysis.categories import area_under_curve, direction_auc
from recsys.analysis.clusters import cluster_items, describe_clusters
from recsys.analysis.compare import compare_items, list_overlap, rank_biased_overlap
from recsys.analysis.maps import ItemMap, align, map_items
from recsys.analysis.neighbours import chance_cosine, nearest_neighbours, unit_rows
from recsys.analysis.quality import gini, list_summary, residual_table
from recsys.data.dataset import Ratings
from recsys.errors import InputError, NotFoundError
from recsys.factors import Side
from recsys.scoring.score import predict_ratings
from tests.analysis.planted import KINDS, PER_KIND, labels, vectors, view

KIND = np.repeat(np.arange(4), PER_KIND)


class TestNeighbours:
    def test_are_those_of_brute_force(self) -> None:
        q = vectors()
        cosine = unit_rows(q).astype(np.float64) @ unit_rows(q).T
        np.fill_diagonal(cosine, -2)
        found = nearest_neighbours(q, 5)
        np.testing.assert_array_equal(found.item_idx, np.argsort(-cosine, axis=1, kind="stable")[:, :5])
        np.testing.assert_allclose(found.cosine, np.sort(cosine)[:, :-6:-1], atol=1e-6)

    def test_among_some_for_some(self) -> None:
        among = KIND == 2
        found = nearest_neighbours(vectors(), 4, np.array([0, 130]), among)
        assert found.item_idx.shape == (2, 4)
        assert (KIND[found.item_idx] == 2).all()
        assert 130 not in found.item_idx[1]

    def test_of_one_item_are_the_same(self) -> None:
        made = view()
        q, among = made.factors.embeddings, KIND == 2
        for idx in (0, 125, 239):
            for chosen in (None, among):
                one = made.nearest(idx, 4, chosen)
                same = nearest_neighbours(q, 4, np.array([idx]), chosen)
                np.testing.assert_array_equal(one.item_idx, same.item_idx)
                np.testing.assert_allclose(one.cosine, same.cosine, atol=1e-6)

    @pytest.mark.parametrize("among", [None, np.arange(2400) % 3 > 0])
    def test_almost_all_are_found_in_a_large_catalogue(
        self, among: NDArray[np.bool_] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        q = np.concatenate([vectors(noise=0.7, seed=seed) for seed in range(10)])  # 40 groups
        exact = nearest_neighbours(q, 5, among=among)
        monkeypatch.setattr(cells, "EXACT_ITEMS", 100)
        found = cells.near_neighbours(q, 5, among=among)
        same = (found.item_idx[:, :, None] == exact.item_idx[:, None]).any(axis=2)
        assert same.mean() > 0.99
        assert (found.item_idx != np.arange(len(q))[:, None]).all()
        np.testing.assert_array_equal(found.item_idx, cells.near_neighbours(q, 5, among=among).item_idx)

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_few_items(self, n: int) -> None:
        assert nearest_neighbours(vectors()[:n], 5).item_idx.shape == (n, max(0, n - 1))

    def test_chance_lies_below_planted_neighbours_and_above_most_noise(self) -> None:
        limit = chance_cosine(vectors())
        assert (nearest_neighbours(vectors(), 1).cosine[:, 0] > limit).mean() > 0.95
        noise = np.random.default_rng(1).normal(size=(240, 16)).astype(np.float32)
        assert (nearest_neighbours(noise, 1).cosine[:, 0] < chance_cosine(noise)).mean() > 0.8


class TestClusters:
    def test_planted_groups_are_found_and_named(self) -> None:
        found = cluster_items(vectors(), 4)
        assert sorted(np.bincount(found).tolist()) == [PER_KIND] * 4
        assert all(len(np.unique(found[kind == KIND])) == 1 for kind in range(4))
        told = {cluster.name.split(" · ")[0]: cluster for cluster in describe_clusters(found, labels())}
        assert set(told) == set(KINDS)
        assert told["War"].properties[0] == ("War", 1.0, 0.25)
        assert told["War"].examples[0] == "War 239"

    def test_zero_vectors_are_in_none(self) -> None:
        q = vectors()
        q[7] = 0
        assert cluster_items(q)[7] == -1


class TestMap:
    def test_near_items_are_alike_and_the_same_arguments_give_the_same_map(self) -> None:
        q, counts = vectors(), np.arange(240)
        found = map_items(np.arange(240), q, counts)
        assert found.method == "tsne"
        distance = np.linalg.norm(found.xy[:, None] - found.xy[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (KIND[distance.argmin(axis=1)] == KIND).mean() > 0.98
        turned = q @ np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
        later = map_items(np.arange(240), turned, counts, found)
        for kind in range(4):  # each group is where it was
            moved = np.linalg.norm(later.xy[kind == KIND].mean(axis=0) - found.xy[kind == KIND].mean(axis=0))
            assert moved < 0.25 * found.xy.std()
        few = [map_items(np.arange(60), q[::4], counts[:60]).xy for _ in range(2)]
        np.testing.assert_array_equal(*few)

    @pytest.mark.parametrize("n", [0, 1, 3])
    def test_few_items_lie_along_their_components(self, n: int) -> None:
        found = map_items(np.arange(n), vectors()[:n], np.zeros(n, np.int64))
        assert (found.method, found.xy.shape) == ("pca", (n, 2))

    def test_aligning_undoes_a_rotation_with_a_mirror(self) -> None:
        points = np.random.default_rng(0).normal(size=(9, 2))
        turned = points @ np.array([[0.6, 0.8], [0.8, -0.6]]) + [3.0, -1.0]
        np.testing.assert_allclose(align(turned, turned, points), points, atol=1e-12)

    def test_a_stored_map_is_used(self) -> None:
        stored = ItemMap("tsne", np.arange(240), np.full((240, 2), 7, np.float32), np.zeros(240, np.int32))
        assert view(stored_map=stored).map.xy[0].tolist() == [7, 7]


class TestCategories:
    def test_planted_categories_are_directions_and_random_ones_are_not(self) -> None:
        table = view().table.categories()
        assert table.n_items.tolist() == [60] * 4
        assert (table.auc > 0.99).all()
        chance = direction_auc(vectors(), np.random.default_rng(0).random(240) < 0.3)
        assert chance is not None
        assert abs(chance - 0.5) < 0.15

    def test_area_by_hand(self) -> None:
        members = np.array([True, False, True, False])
        assert area_under_curve(np.array([3.0, 2.0, 1.0, 0.0]), members) == 0.75
        assert area_under_curve(np.zeros(4), members) == 0.5

    def test_too_small_a_category_has_none(self) -> None:
        assert direction_auc(vectors(), np.arange(240) < 4) is None


class TestCompare:
    def test_a_rotated_model_has_not_moved(self) -> None:
        rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0].astype(np.float32)
        found = compare_items(view().factors, view(vectors() @ rotation).factors)
        assert found.drift < 1e-5
        assert found.overlap.min() == 1

    def test_the_mover_comes_first(self) -> None:
        q = vectors()
        q[200] = q[5] + 0.01
        table = view(q).table.compare(view())
        assert table.item_id[0] == "i200"
        assert table.overlap[0] == 0
        assert table.movement.argmax() == 0

    def test_new_and_gone_items_are_counted(self) -> None:
        before = view().factors
        after = replace(before, items=Side(np.arange(10, 245), vectors()[:235], np.zeros(235, np.float32)))
        found = compare_items(before, after)
        assert (len(found.before_idx), found.n_new, found.n_gone) == (230, 5, 10)

    def test_lists_by_hand(self) -> None:
        assert list_overlap([1, 2, 3], [3, 4, 5]) == pytest.approx(1 / 3)
        assert rank_biased_overlap([1, 2], [1, 2]) == pytest.approx(1)
        assert rank_biased_overlap([1, 2], [3, 4]) == 0
        # X_1 = 0, X_2 = 2: 1 · .81 + .1 / .9 · (.9 · 0 + .81 · 1)
        assert rank_biased_overlap([1, 2], [2, 1]) == pytest.approx(0.81 + 0.09)

    def test_lists_of_the_same_version_are_equal(self) -> None:
        table = view().table.compare_lists(view())
        assert table.overlap.tolist() == [1.0] * 10
        assert table.rbo.tolist() == pytest.approx([1.0] * 10)


class TestQuality:
    def test_gini_by_hand(self) -> None:
        assert gini(np.array([1, 1, 1, 1])) == 0
        assert gini(np.array([0, 0, 0, 4])) == 0.75

    def test_summary_by_hand(self) -> None:
        found = list_summary(np.array([[0, 1], [0, -1]]), np.array([100, 10, 1, 1, 1, 1, 1, 1, 1, 1]))
        assert found == {
            "users": 2,
            "coverage": 0.2,
            "gini": pytest.approx(25 / 30),
            "popular_share": pytest.approx(2 / 3),
            "mean_ratings": 70,
        }

    def test_residuals_of_a_model_that_predicts_the_middle(self) -> None:
        made = view(np.zeros((240, 16), np.float32), "rating").factors
        made = replace(made, items=replace(made.items, bias=np.zeros(240, np.float32)))
        n = np.arange(4)
        ratings = Ratings(
            user_idx=np.array([0, 0, 1, 1], np.int32),
            item_idx=n.astype(np.int32),
            rating=np.array([3, 5, 3, 1], np.float32),
            rated_at=n,
            user_keys=np.arange(2),
            item_keys=n,
            user_hash=np.zeros(2, np.uint64),
            item_hash=np.zeros(4, np.uint64),
        )
        table = residual_table(made, ratings, "rating")
        assert table.index.tolist() == ["1", "3", "5"]
        assert table.n.tolist() == [1, 2, 1]
        assert table.bias.tolist() == pytest.approx([2, 0, -2])
        assert residual_table(made, ratings, "activity").index.tolist() == ["2–3"]
        (only,) = residual_table(made, ratings, "prediction").rmse
        assert only == pytest.approx(np.sqrt(2))

    def test_the_user_with_the_largest_errors_comes_first(self) -> None:
        made = view(objective="rating")
        ratings = Ratings(
            user_idx=np.array([0, 0, 1, 1], np.int32),
            item_idx=np.array([0, 1, 0, 1], np.int32),
            rating=np.zeros(4, np.float32),
            rated_at=np.zeros(4, np.int64),
            user_keys=np.array([3, 8]),
            item_keys=np.array([5, 200]),
            user_hash=np.zeros(2, np.uint64),
            item_hash=np.zeros(2, np.uint64),
        )
        at = np.array([3, 3, 8, 8]), np.array([5, 200, 5, 200])
        predicted = predict_ratings(made.factors, *at)
        ratings = replace(ratings, rating=(predicted + np.array([0.5, -0.5, 1.0, 2.0])).astype(np.float32))
        table = replace(made, ratings=ratings).table.user_residuals(min_ratings=2)
        assert table.index.tolist() == [8, 3]
        np.testing.assert_allclose(table.rmse, [np.sqrt(2.5), 0.5], atol=1e-6)
        np.testing.assert_allclose(table.bias, [-1.5, 0.0], atol=1e-6)
        assert replace(made, ratings=ratings).table.user_residuals(min_ratings=3).empty

    def test_a_ranking_model_has_no_residuals(self) -> None:
        with pytest.raises(InputError, match="look at a rating model"):
            view().table.residuals()


class TestTables:
    def test_ends_and_biases(self) -> None:
        table = view().table.bias(n=2)
        assert table.end.tolist() == ["high", "high", "low", "low"]
        assert table.item_id.tolist() == ["i239", "i238", "i0", "i1"]
        with pytest.raises(InputError, match="no component 99"):
            view().table.ends(99)

    def test_loved_beyond_its_kind(self) -> None:
        made = view()
        bias = np.repeat(np.arange(4, dtype=np.float32), PER_KIND)
        bias[70] += 5
        made = replace(made, factors=replace(made.factors, items=replace(made.factors.items, bias=bias)))
        table = made.table.beyond_kind(n=1)
        assert table.item_id[0] == "i70"
        assert table.beyond_kind[0] == pytest.approx(5)

    def test_components_name_their_categories(self) -> None:
        told = view().table.components().categories
        assert {kind for text in told.tolist()[:3] for kind in KINDS if kind in text} == set(KINDS)

    def test_neighbours_and_an_unknown_item(self) -> None:
        assert view().table.neighbours("i0", 3).categories.tolist() == [("Drama",)] * 3
        with pytest.raises(NotFoundError, match="'nope'"):
            view().table.neighbours("nope")

    def test_rank_of_a_flat_model(self) -> None:
        flat = np.diag(np.ones(16, np.float32)).repeat(15, axis=0)
        assert view(flat).table.rank() == {
            "n_factors": 16,
            "effective": pytest.approx(15, abs=0.01),
            "for_90_percent": 14,
        }

    def test_search_finds_all_words_and_the_most_rated_first(self) -> None:
        made = view()
        assert made.search("war 19").tolist() == [219, *range(199, 189, -1)]
        assert made.search("i7").tolist() == [7]
        assert not len(made.search(" "))
