"""Names and categories of items."""

import numpy as np
import pytest

from recsys.analysis.labels import OTHER, ItemLabels


class TestItemLabels:
    def test_the_name_of_an_item_without_a_title_is_its_id(self) -> None:
        items = ItemLabels(["a", "b", "c"], ["Alien\n (1979)", None, "  "], [(), (), ()], np.zeros(3, np.int64))
        assert [items.name(i) for i in range(3)] == ["Alien (1979)", "b", "c"]

    def test_rare_categories_share_one_colour(self) -> None:
        categories = [["Drama", "War"], ["Drama"], ["Crime"], ["Action"], [], ["Crime"]]
        items = ItemLabels(list("abcdef"), [None] * 6, categories, np.zeros(6, np.int64))
        assert items.main_categories(2) == ["Drama", "Drama", "Crime", OTHER, OTHER, "Crime"]
        assert items.main_categories(3)[3] == "Action"

    def test_columns_of_different_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            ItemLabels(["a"], [], [()], np.zeros(1, np.int64))

    def test_the_most_rated_items_come_first_and_equal_counts_keep_their_order(self) -> None:
        items = ItemLabels(list("abcd"), [None] * 4, [()] * 4, np.array([3, 9, 0, 9]))
        assert items.most_rated(3).tolist() == [1, 3, 0]

    def test_rating_counts_in_words(self) -> None:
        items = ItemLabels(list("abc"), [None] * 3, [()] * 3, np.array([0, 1, 1234]))
        assert [items.rating_count(i) for i in range(3)] == ["0 ratings", "1 rating", "1,234 ratings"]
