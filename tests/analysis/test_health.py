"""Planted faults are found and named; a model without them has none."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.analysis.health import Finding, check_health
from recsys.analysis.labels import ItemLabels
from tests.analysis.planted import FAULTS, faulty_vectors, labels, vectors


def found(item_factors: NDArray[np.float32], items: ItemLabels | None = None) -> dict[str, Finding]:
    return {finding.kind: finding for finding in check_health(item_factors, items or labels(len(item_factors)))}


class TestCheckHealth:
    def test_a_sound_model_has_no_warning(self) -> None:
        assert [finding for finding in check_health(vectors(), labels()) if finding.severity == "warning"] == []

    def test_a_collapsed_dimension(self) -> None:
        q = vectors()
        q[:, 4] = 0.3
        finding = found(q)["collapsed"]
        assert finding.title == "1 of 16 dimensions collapsed: 5"
        assert finding.severity == "warning"

    def test_twenty_duplicates(self) -> None:
        q = vectors()
        q[100:120] = q[100]
        finding = found(q)["duplicates"]
        assert finding.title == "20 items have the same vector: Comedy 119, Comedy 118, Comedy 117, …"
        assert finding.item_idx == tuple(range(100, 120))

    def test_duplicates_without_ratings_are_a_note(self) -> None:
        q = vectors()
        q[100:120] = q[100]
        items = replace(labels(), n_ratings=np.zeros(240, np.int64))
        assert found(q, items)["duplicates"].severity == "note"

    def test_one_hub(self) -> None:
        q = np.random.default_rng(0).normal(1, 1, (240, 64)).astype(np.float32)  # around one direction …
        q[11] = 1  # … which is a point of its own
        finding = found(q)["hub"]
        assert finding.title.startswith("Drama 11 is a hub: near ")
        assert finding.item_idx == (11,)

    @pytest.mark.parametrize("kind", ["in its place", "apart"])
    def test_a_mislabelled_cluster(self, kind: str) -> None:
        q, items = vectors(), labels()
        chosen = range(180, 200)
        if kind == "apart":  # a group of its own beside the war films
            q[180:200, 0] += 0.5
        categories = [("Comedy",) if idx in chosen else items.categories[idx] for idx in range(240)]
        finding = found(q, replace(items, categories=categories)).get("category")
        assert finding is not None
        assert finding.title == "20 items are labelled Comedy but lie among War: War 199, War 198, War 197, …"
        assert finding.item_idx == tuple(chosen)

    def test_all_of_them_at_once(self) -> None:
        titles = [finding.title for finding in check_health(faulty_vectors(), labels())]
        assert titles[:4] == list(FAULTS)

    def test_items_without_a_vector(self) -> None:
        q = vectors()
        q[[3, 5]] = 0
        assert found(q)["zero"].item_idx == (3, 5)

    def test_lengths_that_follow_popularity(self) -> None:
        q = vectors() * labels().n_ratings[:, None].astype(np.float32)
        assert "rank correlation 0.99" in found(q)["popularity"].title

    def test_neighbours_by_chance(self) -> None:
        q = vectors()
        q[:60] = np.random.default_rng(0).normal(size=(60, 16)) / 4
        finding = found(q)["chance"]
        assert set(finding.item_idx) <= set(range(60)) | set(range(60, 240))
        assert np.mean([idx < 60 for idx in finding.item_idx]) > 0.9

    def test_a_tiny_model_is_not_judged(self) -> None:
        assert check_health(np.zeros((19, 4), np.float32), labels(19)) == []
