"""The features of one row that came after a training are those it would have had in it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from recsys.data.features import Features, build_features, match_features

Described = tuple[Sequence[str], Mapping[str, object]]


def made(rows: Sequence[Described], min_rows: int = 1) -> Features:
    return build_features(range(len(rows)), [row[0] for row in rows], [row[1] for row in rows], min_rows=min_rows)


def check(rows: Sequence[Described], min_rows: int = 1) -> Features:
    known = made(rows, min_rows)
    for at, (categories, attributes) in enumerate(rows):
        expected = known.idx[known.starts[at] : known.starts[at + 1]].tolist()
        assert match_features(known.names, categories, attributes).tolist() == expected, (at, known.names)
    return known


def test_categories_text_truth_and_lists() -> None:
    known = check(
        [
            (["Drama", "Comedy"], {"language": "en", "colour": True}),
            (["Drama"], {"language": ["en", "fr"], "colour": False}),
            ([], {"language": "true", "colour": "true"}),
            (["Drama", "Drama"], {"language": [], "other": {"a": 1}, "none": None}),
        ]
    )
    assert "colour: true" in known.names


def test_years_go_by_decade() -> None:
    known = check([([], {"year": year}) for year in (1979, 1980, 1989, 1990, 2004, -5)])
    assert match_features(known.names, [], {"year": 1985}).tolist() == [known.names.index("year: 1980s")]
    assert match_features(known.names, [], {"year": 1955}).tolist() == []


def test_few_numbers_are_values() -> None:
    check([([], {"stars": stars}) for stars in (1, 2, 2.5, -1, 0, 1e6, 0.1)])


@pytest.mark.parametrize("seed", range(4))
def test_many_numbers_are_in_bins(seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers = random.integers(-50, 300, 200).tolist()
    known = check([([], {"minutes": number}) for number in numbers])
    assert len(known.names) <= 10
    assert match_features(known.names, [], {"minutes": 1000}).tolist() == []
    assert match_features(known.names, [], {"minutes": "long"}).tolist() == []


def test_names_tell_numbers_apart_that_differ_in_the_last_digit() -> None:
    check([([], {"n": number}) for number in (0.12345678, 0.12345679, 1234567.5, 1234567.25, 1e-9)])
    random = np.random.default_rng(0)
    check([([], {"n": 1e6 + number}) for number in random.random(200).tolist()])


def test_numbers_between_two_bins_have_none() -> None:
    known = made([([], {"n": float(number * 10)}) for number in range(30)])
    ends = [tuple(map(float, name[3:].split(" to "))) for name in known.names]
    between = (ends[0][1] + ends[1][0]) / 2
    assert match_features(known.names, [], {"n": between}).tolist() == []
    inside = match_features(known.names, [], {"n": 1.0}).tolist()
    assert inside == [0]


def test_rare_and_unknown_ones_have_none() -> None:
    rows: list[Described] = [(["Drama"], {}), (["Drama"], {}), (["Rare"], {}), ([], {})]
    known = check(rows, min_rows=2)
    assert known.names == ("category: Drama",)
    assert match_features(known.names, ["Rare", "Unheard of"], {"language": "en"}).tolist() == []
    assert match_features((), ["Drama"], {"year": 1990}).tolist() == []


def test_odd_values_say_nothing() -> None:
    known = made([([], {"n": number}) for number in (1, 2, 3)])
    for odd in (float("nan"), float("inf"), 10**400, None, {"a": 1}, [], [None], "1 to 3"):
        assert match_features(known.names, [], {"n": odd}).tolist() == []
    years = made([([], {"year": year}) for year in (1980, 1990)])
    for odd in (float("nan"), float("inf"), None, "x"):
        assert match_features(years.names, [], {"year": odd}).tolist() == []


def test_a_mixture_of_everything() -> None:
    random = np.random.default_rng(1)
    words = ["a", "b", "c: d", "1 to 2", "x: y"]
    rows: list[Described] = [
        (
            [words[i] for i in np.flatnonzero(random.random(5) < 0.4)],
            {
                "year": int(random.integers(1950, 2020)),
                "length": int(random.integers(0, 400)),
                "score": float(random.integers(0, 8)) / 2,
                "tag": words[random.integers(5)],
                "flag": bool(random.integers(2)),
                "tags: more": [words[random.integers(5)], words[random.integers(5)]],
            },
        )
        for _ in range(120)
    ]
    check(rows, min_rows=5)
