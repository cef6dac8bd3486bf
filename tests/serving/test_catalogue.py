"""Finding items: words, pages that stay true while items change, and the catalogue's arrays."""

import base64
import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.data.rows import ItemRow
from recsys.database.engine import reading
from recsys.database.items import StoredItem, upsert_items
from recsys.errors import InputError
from recsys.serving.catalogue import Catalogue, read_catalogue
from recsys.serving.titles import normalize_title

TITLES = [
    "Zoo",
    "Alien",
    "alien",
    "Aliens 2",
    "Été",
    "ete",
    "Straße",
    None,
    "The Alien Zoo",
    "İstanbul",
    "x\ny z",
    "１２",
]


@pytest.fixture
def catalogue(sqlite_engine: Engine) -> Catalogue:
    upsert_items(sqlite_engine, [ItemRow(f"i{at}", title, (), None) for at, title in enumerate(TITLES)])
    with reading(sqlite_engine) as connection:
        return read_catalogue(connection)


def found(catalogue: Catalogue, text: str, limit: int = 100) -> list[str]:
    return [item.item_id for item in catalogue.search(text, limit).items]


def pages(catalogue: Catalogue, limit: int, text: str = "") -> list[str]:
    seen, cursor = [], None
    while True:
        page = catalogue.search(text, limit, cursor)
        assert len(page.items) <= limit
        seen += [item.item_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return seen


def item_of(catalogue: Catalogue, item_id: str) -> StoredItem:
    return catalogue.items[catalogue.idx_of[item_id]]


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("alien", ["i1", "i2", "i3", "i8"]),
            ("ALIEN zoo", ["i8"]),
            ("zoo alien the", ["i8"]),
            ("lien", ["i1", "i2", "i3", "i8"]),
            ("ETE", ["i4", "i5"]),
            ("été", ["i4", "i5"]),
            ("strasse", ["i6"]),
            ("istanbul", ["i9"]),
            ("x y", ["i10"]),
            ("x z", ["i10"]),
            ("y\nz", ["i10"]),
            ("12", ["i11"]),
            ("zoo zoo", ["i8", "i0"]),
            ("alien nothing", []),
            ("\0", []),
            (".*", []),
        ],
    )
    def test_all_words_in_any_order_case_and_accents(
        self, catalogue: Catalogue, text: str, expected: list[str]
    ) -> None:
        assert found(catalogue, text) == expected

    def test_no_words_find_all_by_title_and_then_by_key(self, catalogue: Catalogue) -> None:
        expected = sorted(range(len(TITLES)), key=lambda at: (normalize_title(TITLES[at] or ""), at))
        for text in ("", "  ", "\n\t"):
            assert found(catalogue, text) == [f"i{at}" for at in expected]

    def test_a_word_does_not_reach_into_the_next_title(self, catalogue: Catalogue) -> None:
        """Titles lie in one text, one after the other."""
        folded = sorted(normalize_title(title or "") for title in TITLES)
        for first, second in itertools.pairwise(folded):
            joined = (first[-2:] + second[:2]).replace(" ", "")
            expected = [title for title in folded if all(word in title for word in joined.split())]
            if joined:
                assert len(found(catalogue, joined)) == len(expected)

    @pytest.mark.parametrize("limit", [1, 2, 3, len(TITLES) - 1, len(TITLES), len(TITLES) + 1])
    @pytest.mark.parametrize("text", ["", "alien", "e"])
    def test_pages_are_the_whole(self, catalogue: Catalogue, text: str, limit: int) -> None:
        assert pages(catalogue, limit, text) == found(catalogue, text)

    def test_the_last_page_says_so(self, catalogue: Catalogue) -> None:
        assert catalogue.search("", len(TITLES)).next_cursor is None
        assert catalogue.search("", len(TITLES) - 1).next_cursor is not None
        assert catalogue.search("nothing", 1).next_cursor is None


class TestChangesBetweenPages:
    """Whatever is added, renamed or hidden meanwhile, no other item is repeated or skipped."""

    def changes(self, catalogue: Catalogue, turn: int) -> Sequence[StoredItem]:
        key = int(catalogue.item_keys[-1]) + 1
        new = StoredItem(key, f"new{turn}", ["", "Alien", "zzz", "ete"][turn % 4], [], {}, hidden=False)
        renamed = item_of(catalogue, "i6")._replace(title=["Aaa", "Zzz", None][turn % 3])
        hidden = item_of(catalogue, "i3")._replace(hidden=turn % 2 == 0)
        return [new, renamed, hidden]

    @pytest.mark.parametrize("limit", [1, 2, 3, 5])
    def test_the_others_come_once(self, catalogue: Catalogue, limit: int) -> None:
        others = [item_id for item_id in found(catalogue, "") if item_id not in ("i3", "i6")]
        seen: list[str] = []
        cursor, turn, now = None, 0, catalogue
        while True:
            page = now.search("", limit, cursor)
            seen += [item.item_id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            now = now.with_items(self.changes(now, turn))
            turn += 1
            assert turn < 100
        assert [item_id for item_id in seen if item_id in others] == others

    def test_even_where_the_last_one_of_a_page_was_renamed_or_hidden(self, catalogue: Catalogue) -> None:
        everything = found(catalogue, "")
        for changed in ({"title": "zzzz"}, {"title": None}, {"hidden": True}):
            page = catalogue.search("", 4)
            last = item_of(catalogue, page.items[-1].item_id)
            now = catalogue.with_items([last._replace(**changed)])  # type: ignore[arg-type]
            rest = [item.item_id for item in now.search("", 100, page.next_cursor).items]
            assert [item_id for item_id in rest if item_id != last.item_id] == everything[4:]

    def test_a_cursor_is_good_for_other_words_and_limits(self, catalogue: Catalogue) -> None:
        cursor = catalogue.search("", 1).next_cursor
        assert [item.item_id for item in catalogue.search("alien", 2, cursor).items] == ["i1", "i2"]


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "zzz",
        "é",
        "\ud800",
        "A" * 10_000,
        *map(encoded, [None, 7, "x", [], ["a"], ["a", "b"], [1, 2], ["a", 1.5], ["a", True], ["a", 1, 2], {"a": 1}]),
        encoded([]) + "=",
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
        base64.urlsafe_b64encode(b'["a", 1' + b"0" * 5000 + b"]").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_invalid_cursors_are_refused(catalogue: Catalogue, cursor: str) -> None:
    with pytest.raises(InputError, match="is not the next_cursor of a page"):
        catalogue.search("", 2, cursor)


def test_an_empty_cursor_is_the_first_page(catalogue: Catalogue) -> None:
    assert catalogue.search("", 2, "") == catalogue.search("", 2)


@pytest.mark.parametrize("key", [-1, 0, 10**30, -(10**30)])
def test_a_cursor_of_a_key_that_is_not_there_is_a_place_all_the_same(catalogue: Catalogue, key: int) -> None:
    following = [item.item_id for item in catalogue.search("", 100, encoded(["alien", key])).items]
    assert following[0] == ("i1" if key <= 0 else "i3")


class TestArrays:
    def test_categories(self, sqlite_engine: Engine) -> None:
        rows = [("a", ("X", "Y")), ("b", ()), ("c", ("Y",)), ("d", ("X", "Z"))]
        upsert_items(sqlite_engine, [ItemRow(item_id, None, categories, None) for item_id, categories in rows])
        with reading(sqlite_engine) as connection:
            catalogue = read_catalogue(connection)
        assert np.flatnonzero(catalogue.category_mask(["X"])).tolist() == [0, 3]
        assert np.flatnonzero(catalogue.category_mask(["Y", "X", "Y"])).tolist() == [0, 2, 3]
        assert np.flatnonzero(catalogue.category_mask(["nothing"])).tolist() == []
        assert np.flatnonzero(catalogue.category_mask(["nothing", "Z"])).tolist() == [3]
        changed = catalogue.with_items([catalogue.items[0]._replace(categories=["Z"])])
        assert np.flatnonzero(changed.category_mask(["X"])).tolist() == [3]
        assert np.flatnonzero(changed.category_mask(["Z"])).tolist() == [0, 3]
        assert np.flatnonzero(catalogue.category_mask(["X"])).tolist() == [0, 3]  # the one before stays as it was

    def test_counts(self, catalogue: Catalogue) -> None:
        keys = catalogue.item_keys[[2, 0]][::-1]
        counted = catalogue.with_counts((keys, np.array([4, 0]), np.array([10.0, 0.0])))
        assert counted.n_ratings.tolist()[:4] == [4, 0, 0, 0]
        assert counted.mean_rating.tolist()[:4] == [2.5, 0.0, 0.0, 0.0]
        assert counted.item(0).mean_rating == 2.5
        assert counted.item(2).mean_rating is None

    def test_an_empty_one(self, sqlite_engine: Engine) -> None:
        with reading(sqlite_engine) as connection:
            catalogue = read_catalogue(connection)
        assert catalogue.n_items == 0
        assert found(catalogue, "") == found(catalogue, "x") == []
        assert np.flatnonzero(catalogue.category_mask(["x"])).tolist() == []

    def test_json_heads(self, catalogue: Catalogue) -> None:
        for place in range(catalogue.n_items):
            item = catalogue.items[place]
            head = catalogue.json_prefix(place)
            assert json.loads(head + b"1.5}") == {"item_id": item.item_id, "title": item.title, "score": 1.5}
            assert catalogue.json_prefix(place) is head


class TestKeysOutOfOrder:
    """PostgreSQL hands out keys before transactions commit, so a smaller key can arrive after a larger one."""

    ITEMS = (
        StoredItem(1, "a", "Alien", ["X"], {}, False),
        StoredItem(5, "e", "Eraserhead", ["X"], {}, False),
        StoredItem(3, "c", "Casablanca", ["Y"], {}, True),
        StoredItem(2, "b", "Brazil", ["Y", "X"], {}, False),
    )

    @pytest.fixture
    def arrived(self) -> Catalogue:
        nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        catalogue = Catalogue.from_items([], nothing)
        for item in self.ITEMS:
            catalogue = catalogue.with_items([item])
        return catalogue

    def test_every_item_is_found_by_its_key(self, arrived: Catalogue) -> None:
        assert arrived.item_keys.tolist() == [1, 5, 3, 2]
        assert arrived.positions(np.array([1, 2, 3, 4, 5, 9])).tolist() == [0, 3, 2, -1, 1, -1]
        assert [arrived.items[arrived.require(item.item_id)] for item in self.ITEMS] == list(self.ITEMS)

    def test_everything_else_follows(self, arrived: Catalogue) -> None:
        assert np.flatnonzero(arrived.category_mask(["X"])).tolist() == [0, 1, 3]
        assert arrived.hidden.tolist() == [False, False, True, False]
        counts = np.array([2, 3]), np.array([7, 4]), np.array([21.0, 20.0])
        assert arrived.with_counts(counts).n_ratings.tolist() == [0, 0, 4, 7]
        assert [item.item_id for item in arrived.search("", 10).items] == ["a", "b", "e"]
