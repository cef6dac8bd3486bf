"""Users on the map of the items."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.analysis.map_figure import places
from recsys.analysis.quality import lists_of
from recsys.analysis.users import user_map, user_places
from recsys.errors import InputError
from recsys.factors import Side
from tests.analysis.planted import PER_KIND, view

XY = np.array([[0, 0], [1, 0], [0, 1], [10, 10], [10, 11], [50, 50]], np.float32)


def test_a_user_stands_amid_the_half_of_the_list_that_is_closest_together() -> None:
    # the first half is 0, 1, 2: three of five items; the mean of all would be far from any
    (place,) = user_places(np.array([[3, 0, 1, 5, 2]]), XY)
    np.testing.assert_allclose(place, [1 / 3, 1 / 3])


def test_short_and_empty_lists() -> None:
    found = user_places(np.array([[4, -1, -1], [-1, -1, -1], [3, 4, -1]]), XY)
    np.testing.assert_allclose(found, [[10, 11], [np.nan, np.nan], [10, 10]])
    assert user_places(np.zeros((2, 0), np.int64), XY).shape == (2, 2)
    assert np.isnan(user_places(np.array([[-1]]), np.zeros((0, 2), np.float32))).all()


def test_users_stand_in_the_group_that_they_like_and_show_who_they_are() -> None:
    made = view()
    unknown = replace(made, factors=replace(made.factors, users=Side.empty(made.factors.n_factors)))
    with pytest.raises(InputError, match="use a Learner"):
        unknown.table.users()
    centres = made.embeddings.reshape(4, PER_KIND, -1).mean(axis=1) * np.float32(3)
    users = Side(np.array([5, 6, 8, 9]), centres, np.arange(4, dtype=np.float32))
    made = replace(made, factors=replace(made.factors, users=users)).with_plane()
    table = made.table.users()
    assert table.index.tolist() == [5, 6, 8, 9]
    assert table.bias.tolist() == [0, 1, 2, 3]
    lists = lists_of(made.factors)
    assert (lists // PER_KIND == np.arange(4)[:, None]).all()
    xy = places(made, "map")[0]
    low, high = xy[lists].min(axis=1), xy[lists].max(axis=1)
    place = table[["x", "y"]].to_numpy()
    assert ((place >= low - 1e-5) & (place <= high + 1e-5)).all()
    drawn = user_map(made, table.iloc[1:3], {6: "<b>six</b>", 8: "eight"}).data[1]
    assert drawn.customdata == ("<b>six</b>", "eight")
    assert drawn.text[0].startswith("<b>&lt;b&gt;six")
    assert made.table.users(n_users=2).index.tolist() == [5, 9]
