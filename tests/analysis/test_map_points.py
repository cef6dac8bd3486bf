"""Points of the map: places, sizes and colours of the items, and the bytes that a browser reads."""

import json
import struct

import numpy as np
import pytest

from recsys.analysis.map_points import UNKNOWN, map_points
from recsys.analysis.style import BLUE, GREY
from recsys.errors import InputError
from tests.analysis.planted import KINDS, view


def test_bytes_hold_what_the_points_hold() -> None:
    points = map_points(view().with_plane(), "cluster")
    data = points.to_bytes()
    (length,) = struct.unpack_from("<I", data)
    head = json.loads(data[4 : 4 + length])
    assert (4 + length) % 4 == 0
    n = head["n"]
    assert n == 240
    x, y = np.frombuffer(data, "<f4", 2 * n, 4 + length).reshape(2, n)
    np.testing.assert_array_equal(np.stack([x, y], axis=1), points.xy)
    size, colour = np.frombuffer(data, np.uint8, 2 * n, 4 + length + 8 * n).reshape(2, n)
    np.testing.assert_array_equal(size, points.size)
    np.testing.assert_array_equal(colour, points.colour)
    assert len(data) == 4 + length + 10 * n
    assert len(head["palette"]) == 256
    assert {label["text"].split(" ")[0] for label in head["labels"]} == set(KINDS)


def test_a_category_is_drawn_on_top() -> None:
    points = map_points(view(), "category:War", "pca")
    assert points.colour[:180].tolist() == [0] * 180
    assert points.colour[180:].tolist() == [points.top] * 60
    assert (points.palette[points.top], points.palette[0]) == (BLUE.upper(), GREY)
    assert points.axes[0].startswith("Component 1 (")
    assert points.labels == []


def test_unknown_values_are_grey_and_popular_items_large() -> None:
    points = map_points(view(), "year", "pca")
    assert points.colour[::2].tolist() == [UNKNOWN] * 120  # even items have no year
    assert points.palette[UNKNOWN] == GREY
    assert (points.size[-1], points.size[0]) == (7, 2)


def test_an_unknown_colouring() -> None:
    with pytest.raises(InputError, match="cannot be coloured by 'nothing'"):
        map_points(view(), "nothing")
