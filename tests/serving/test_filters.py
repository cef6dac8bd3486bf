"""Filters of lists beside a plain loop over all items, after every change of the catalogue."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings
from recsys.database.items import StoredItem
from recsys.factors import Factors, Head, Side
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.scoring.score import N_CANDIDATES
from recsys.scoring.search import Index
from recsys.serving.catalogue import Catalogue
from recsys.serving.checks import ignored_parts
from recsys.serving.filters import Condition, Filters, parse_condition
from recsys.serving.lists import ListQuery, recommend
from recsys.serving.pages import as_page, start_page
from recsys.serving.snapshot import Recommender

NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour=red", ("colour", "=", "red")),
        ("price>=10", ("price", ">=", "10")),
        ("price<20", ("price", "<", "20")),
        ("a b=c=d>e", ("a b", "=", "c=d>e")),
        ("colour=", ("colour", "=", "")),
        ("note=two\nlines", ("note", "=", "two\nlines")),
    ],
)
def test_a_condition_is_read(text: str, expected: tuple[str, str, str]) -> None:
    assert tuple(parse_condition(text)) == expected


@pytest.mark.parametrize("text", ["", "colour", "=red", ">=10", "<"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        parse_condition(text)


def holds(value: object, condition: Condition) -> bool:
    """Whether a condition holds, by its definition."""
    if value is None:
        return False
    values: list[Any] = value if isinstance(value, list) else [value]
    try:
        bound: float | None = float(condition.value)
    except ValueError:
        bound = None
    for each in values:
        text = str(each).lower() if isinstance(each, bool) else str(each)
        number = None
        if not isinstance(each, bool) and not isinstance(value, list):
            try:
                number = float(each)
            except ValueError:
                number = None
        if condition.operator == "=":
            if text == condition.value or (bound is not None and number == bound):
                return True
            continue
        left: Any = number if bound is not None else text
        right: Any = bound if bound is not None else condition.value
        operators = {
            ">=": lambda a, b: a >= b,
            "<=": lambda a, b: a <= b,
            ">": lambda a, b: a > b,
            "<": lambda a, b: a < b,
        }
        if left is not None and operators[condition.operator](left, right):
            return True
    return False


def kept(item: StoredItem, filters: Filters) -> bool:
    year = item.attributes.get("year")
    if filters.categories and not set(filters.categories) & set(item.categories):
        return False
    if set(filters.not_categories) & set(item.categories):
        return False
    if filters.year_from is not None and not (isinstance(year, int) and year >= filters.year_from):
        return False
    if filters.year_to is not None and not (isinstance(year, int) and year <= filters.year_to):
        return False
    equal: dict[str, bool] = {}
    for condition in filters.attributes:
        result = holds(item.attributes.get(condition.name), condition)
        if condition.operator == "=":
            equal[condition.name] = equal.get(condition.name, False) or result
        elif not result:
            return False
    return all(equal.values())


def random_item(random: np.random.Generator, key: int) -> StoredItem:
    possible: dict[str, list[object]] = {
        "colour": ["red", "blue", ["red", "green"], "Red", 5],
        "price": [5, 10.0, 10, 19.99, "10", "free", "2020-05-01"],
        "in stock": [True, False, "true"],
        "year": [1979, 1985, 1999],
        "date": ["2020-01-01", "2020-06-01", "2021-01-01"],
    }
    attributes = {
        name: values[random.integers(len(values))] for name, values in possible.items() if random.random() < 0.7
    }
    categories = [name for name in ("A", "B", "C, D") if random.random() < 0.4]
    return StoredItem(key, f"i{key}", None, categories, attributes, False)


FILTERS = [
    Filters(categories=("A", "B")),
    Filters(categories=("A",), not_categories=("C, D", "unknown")),
    Filters(year_from=1980),
    Filters(year_from=1979, year_to=1985),
    *(
        Filters(attributes=tuple(map(parse_condition, conditions)))
        for conditions in [
            ("colour=red",),
            ("colour=red", "colour=blue"),
            ("colour=red", "price<=10"),
            ("price>=10", "price<15"),
            ("price=10",),
            ("in stock=true",),
            ("date>=2020-06-01",),
            ("unknown=1",),
            ("unknown>1", "colour=red"),
            ("colour=5",),
        ]
    ),
]


def test_filters_are_those_of_a_loop_over_all_items_and_stay_so() -> None:
    random = np.random.default_rng(0)
    catalogue = Catalogue.from_items([random_item(random, key) for key in range(1, 61)], NOTHING)
    for _ in range(4):
        for filters in FILTERS:
            expected = [not kept(item, filters) for item in catalogue.items]
            assert catalogue.left_out(filters).tolist() == expected, filters
            exact = catalogue.exclusions(filters, np.array([0, 3]))
            assert exact.tolist() == [left_out or idx in (0, 3) for idx, left_out in enumerate(expected)]
        changed = [random_item(random, int(key)) for key in random.integers(1, 61, 7)]
        n_items = catalogue.n_items
        catalogue = catalogue.with_items(
            [*{item.item_key: item for item in changed}.values(), random_item(random, n_items + 1)]
        )
        assert catalogue.n_items == n_items + 1


def test_new_counts_are_respected() -> None:
    catalogue = Catalogue.from_items([random_item(np.random.default_rng(0), key) for key in (1, 2)], NOTHING)
    assert catalogue.left_out(Filters(min_ratings=1)).tolist() == [True, True]
    counted = catalogue.with_counts((np.array([2]), np.array([1]), np.array([3.0])))
    assert counted.left_out(Filters(min_ratings=1)).tolist() == [True, False]


def test_parts_without_effect_are_named() -> None:
    item = StoredItem(1, "a", None, ["Drama", "Sci-Fi"], {"colour": "red"}, False)
    catalogue = Catalogue.from_items([item], NOTHING)
    filters = Filters(
        categories=("Drama", "Drama,Sci-Fi"),
        not_categories=("drama",),
        attributes=(Condition("colour", "=", "blue"), Condition("size", ">", "1")),
    )
    ignored = ignored_parts(catalogue, filters, [("exclude", ["a", "b", "b", "a,b"])])
    assert [(each.where, each.value) for each in ignored] == [
        ("category", "Drama,Sci-Fi"),
        ("not_category", "drama"),
        ("attribute", "size>1"),
        ("exclude", "b"),
        ("exclude", "a,b"),
    ]
    reasons = [each.reason for each in ignored]
    assert "repeat category" in reasons[0]
    assert "GET /v1/categories" in reasons[1]
    assert "no item has this attribute" in reasons[2]
    assert "repeat exclude" in reasons[4]
    assert len(ignored_parts(catalogue, Filters(), [("exclude", [f"x{i}" for i in range(500)])])) == 100


class TestLargeNeuralCatalogue:
    """More items than a list's layers score: filters decide first which items compete."""

    N_ITEMS = 21_000

    @pytest.fixture(scope="class")
    @classmethod
    def learner(cls) -> Learner:
        """A neural version of random rows: 37 items are "few", 2,500 are "some" and all are "every"."""
        random = np.random.default_rng(5)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.normal(size=shape).astype(np.float32)

        keys = np.arange(1, cls.N_ITEMS + 1)
        few, some = (set(random.choice(keys, n, replace=False).tolist()) for n in (37, 2500))
        names = {key: [*(["few"] if key in few else []), *(["some"] if key in some else []), "every"] for key in keys}
        items = {key: StoredItem(key, f"i{key}", None, names[key], {}, False) for key in keys.tolist()}
        rated = np.array([min(few), min(some), 7], np.int32)
        ratings = Ratings(
            user_idx=np.zeros(3, np.int32),
            item_idx=rated - 1,
            rating=np.array([5, 4, 3], np.float32),
            rated_at=np.full(3, NO_TIME),
            user_keys=np.array([1]),
            item_keys=keys,
            user_hash=np.array([1], np.uint64),
            item_hash=keys.astype(np.uint64),
            scale=(1.0, 5.0),
        )
        factors = Factors(
            objective="ranking",
            users=Side(np.array([1]), normal(1, 8), np.zeros(1, np.float32)),
            items=Side(keys, normal(cls.N_ITEMS, 8), normal(cls.N_ITEMS)),
            head=Head(5, ((normal(6, 3), normal(6)), (3 * normal(1, 6), normal(1)))),
        )
        return Learner(RatingData(ratings, {1: "u"}, items), factors, {}, (1.0, 5.0))

    def expected(self, learner: Learner, category: str, shown: list[int], n: int) -> list[int]:
        """The positions of the best items by brute force, as docs/serving.md describes it."""
        factors = learner.factors
        allowed = [place for place, item in enumerate(learner.catalogue.items) if category in item.categories]
        left = np.setdiff1d(allowed, [*shown, *learner.data.ratings.item_idx.tolist()])
        vectors = np.broadcast_to(factors.user_factors[0], (len(left), 8))
        n_dot = factors.n_dot
        product = (vectors * factors.item_factors[left])[:, :n_dot].sum(1) + factors.item_bias[left]
        left = left[np.argsort(-product)[:N_CANDIDATES]]
        scores = Index(factors.item_factors, factors.item_bias, factors.head).pair_scores(vectors[: len(left)], left)
        return left[np.lexsort((left, -np.round(scores, 6)))[:n]].tolist()

    @pytest.mark.parametrize(
        ("category", "n", "n_left"), [("few", 50, 36), ("some", 1000, 2499), ("every", 300, N_ITEMS - 3)]
    )
    def test_lists_are_exact_and_never_short(self, learner: Learner, category: str, n: int, n_left: int) -> None:
        """Page by page, and to the end where the pages do not outgrow a cursor."""
        catalogue, filters = learner.catalogue, Filters(categories=(category,))
        recommender, user = Recommender(catalogue, {"ranking": learner._model}), learner.users.state("u")
        shown: list[int] = []
        cursor = None
        while len(shown) + n <= 4000:
            start = start_page(catalogue, "recommendations", cursor)
            query = ListQuery(n=n + 1, exclude=start.shown, filters=filters, after=start.last)
            (ranked,) = recommend(recommender, learner._model, [user], query)
            page = as_page(catalogue, ranked, n, start)
            found = page.best.item_idx.tolist()
            assert len(found) == min(n, n_left - len(shown))
            assert not set(found) & set(shown)
            if start.last is None:
                assert found == self.expected(learner, category, shown, n)
            shown += found
            cursor = page.next_cursor
            if cursor is None:
                break
        assert (cursor is None) == (len(shown) == n_left)
