"""Tables of a model against values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recsys.analysis.labels import ItemLabels
from recsys.analysis.measures import format_setting, format_value, measure_of
from recsys.analysis.tables import measure_table, training_table
from recsys.analysis.view import ModelView, item_bias
from tests.analysis.test_report import model

ITEMS = ItemLabels(["a", "b", "c"], ["Alien", None, "Casablanca"], [["Horror", "Sci-Fi"], [], ["Drama"]], np.arange(3))


def small(n_factors: int = 2) -> ModelView:
    return replace(model("ranking", n_items=3, n_factors=n_factors), items=ITEMS)


class TestItems:
    def test_one_row_per_item_in_the_order_of_the_factors(self) -> None:
        view = small()
        table = view.table.items()
        assert table.index.name == "item_idx"
        assert list(table.columns) == [
            "item_id",
            "title",
            "categories",
            "n_ratings",
            "bias",
            "norm",
            "cluster",
            "component_1",
            "component_2",
        ]
        assert table["item_id"].tolist() == ["a", "b", "c"]
        assert table["title"].tolist() == ["Alien", "b", "Casablanca"]
        assert table["categories"].tolist() == [("Horror", "Sci-Fi"), (), ("Drama",)]
        assert table["n_ratings"].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(table["bias"], view.factors.item_bias)

    def test_components_are_the_rotated_centred_factors(self) -> None:
        view = small()
        factors = view.factors
        positions = view.table.items()[["component_1", "component_2"]].to_numpy()
        directions = view.table.components()[["direction_1", "direction_2"]].to_numpy()
        centred = factors.item_factors - factors.item_factors.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(positions @ directions, centred, atol=1e-6)

    def test_the_number_of_components_is_limited(self) -> None:
        table = small().table.items(n_components=1)
        assert "component_1" in table
        assert "component_2" not in table

    def test_no_items(self) -> None:
        assert model(n_items=0).table.items().empty


class TestComponents:
    def test_shares_and_unit_directions(self) -> None:
        table = model(n_factors=3).table.components()
        assert table.index.tolist() == [1, 2, 3]
        assert table["explained"].is_monotonic_decreasing
        directions = table.filter(like="direction").to_numpy()
        np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)

    def test_equal_factors_have_no_component(self) -> None:
        assert model(n_items=1).table.components().empty


class TestItemBias:
    def test_is_in_rating_points_on_a_rating_scale(self) -> None:
        factors = model().factors
        expected = [5 / (1 + math.exp(-0.3 - bias)) - 5 / (1 + math.exp(-0.3)) for bias in factors.item_bias.tolist()]
        np.testing.assert_allclose(item_bias(factors), expected, atol=1e-5)

    def test_is_unchanged_without_a_rating_scale(self) -> None:
        factors = model("ranking").factors
        np.testing.assert_array_equal(item_bias(factors), factors.item_bias)


class TestMeasureTable:
    def test_one_column_per_baseline_and_gaps_are_nan(self) -> None:
        table = measure_table({"ndcg": 0.5, "novelty": 2.0}, {"popular": {"ndcg": 0.25, "mae": 1.0}, "my_own": {}})
        assert list(table.columns) == ["This version", "Most popular", "My own"]
        assert table.index.tolist() == ["ndcg", "novelty", "mae"]
        assert table.loc["ndcg"].tolist()[:2] == [0.5, 0.25]
        assert table.isna().to_numpy().tolist() == [[False, False, True], [False, True, True], [True, False, True]]

    def test_without_measures(self) -> None:
        assert measure_table({}, {"popular": {}}).empty


class TestTrainingTable:
    def test_keeps_finite_numbers_and_leaves_out_durations_and_texts(self) -> None:
        history = [
            {"epoch": 1, "train_loss": 2.0, "valid": None, "seconds": 1.0, "note": "x", "done": True},
            {"epoch": 2, "train_loss": float("inf"), "valid": 0.25, "seconds": 2.0},
        ]
        table = training_table(history)
        assert list(table.columns) == ["train_loss", "valid"]
        assert table.index.tolist() == [1.0, 2.0]
        assert table["train_loss"].tolist()[0] == 2.0
        assert table["valid"].tolist()[1] == 0.25
        assert table.isna().sum().tolist() == [1, 1]

    def test_epochs_that_were_not_recorded_are_counted(self) -> None:
        assert training_table([{"loss": 1.0}, {"loss": 0.5}]).index.tolist() == [1.0, 2.0]

    def test_without_history(self) -> None:
        assert training_table([]).empty


class TestMeasures:
    @pytest.mark.parametrize(
        ("key", "name", "hint"),
        [
            ("ndcg@10", "NDCG@10", "higher is better"),
            ("rmse", "RMSE", "lower is better"),
            ("coverage", "Coverage", ""),
            ("my_own@5", "My own@5", ""),
        ],
    )
    def test_name_and_direction(self, key: str, name: str, hint: str) -> None:
        measure = measure_of(key)
        assert (measure.name, measure.hint) == (name, hint)

    def test_the_best_value_follows_the_direction(self) -> None:
        values = [0.5, math.nan, 0.25]
        assert measure_of("ndcg").best(values) == 0.5
        assert measure_of("rmse").best(values) == 0.25
        assert measure_of("novelty").best(values) is None
        assert measure_of("rmse").best([math.nan]) is None

    def test_formats(self) -> None:
        assert [format_value(value) for value in (0.81234, 12.3456, 0.0001234, math.nan)] == [
            "0.8123",
            "12.35",
            "0.0001234",
            "–",
        ]
        assert [format_setting(value) for value in (0.005, None, True, [], [64, 32], "dot")] == [
            "0.005",
            "–",
            "True",
            "–",
            "64, 32",
            "dot",
        ]
