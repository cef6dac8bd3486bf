"""Names and categories of items."""

import numpy as np
import pytest

from recsys.analysis.labels import ItemLabels


class TestItemLabels:
    def test_the_name_of_an_item_without_a_title_is_its_id(self) -> None:
        items = ItemLabels(["a", "b", "c"], ["Alien\n (1979)", None, "  "], [(), (), ()], np.zeros(3, np.int64))
        assert [items.name(i) for i in range(3)] == ["Alien (1979)", "b", "c"]

    def test_an_item_counts_in_each_of_its_categories(self) -> None:
        categories = [["Action", "War"], ["War"], ["Crime", "Crime"], [], ["Action"]]
        items = ItemLabels(list("abcde"), [None] * 5, categories, np.zeros(5, np.int64))
        found = {name: idx.tolist() for name, idx in items.category_idx.items()}
        assert found == {"Action": [0, 4], "War": [0, 1], "Crime": [2]}
        assert list(found) == ["Action", "War", "Crime"]
        assert items.in_category("War").tolist() == [True, True, False, False, False]
        assert not items.in_category("Western").any()

    def test_columns_of_different_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            ItemLabels(["a"], [], [()], np.zeros(1, np.int64))

    def test_the_most_rated_items_come_first_and_equal_counts_keep_their_order(self) -> None:
        items = ItemLabels(list("abcd"), [None] * 4, [()] * 4, np.array([3, 9, 0, 9]))
        assert items.most_rated(3).tolist() == [1, 3, 0]

    def test_rating_counts_in_words(self) -> None:
        items = ItemLabels(list("abc"), [None] * 3, [()] * 3, np.array([0, 1, 1234]))
        assert [items.rating_count(i) for i in range(3)] == ["0 ratings", "1 rating", "1,234 ratings"]
