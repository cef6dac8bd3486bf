"""Files with the habits of databases, spreadsheets and countries: read as they were meant, or refused with the fix."""

import bz2
import gzip
import io
import lzma
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.data.dataset import NO_TIME
from recsys.data.rows import Rejected
from recsys.errors import InputError
from recsys.files import packed
from recsys.files.options import ReadOptions
from recsys.files.source import Source, open_source
from recsys.settings import parse_event_weights

Write = Callable[[str, str | bytes], Path]
Row = tuple[str, str, float, int | None]

EXPECTED: list[Row] = [("ann", "10", 4.0, None), ("bob", "10", 3.0, None)]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(source: Source) -> tuple[list[Row], list[Rejected]]:
    rejected: list[Rejected] = []
    rows: list[Row] = []
    for batch in source.ratings(rejected.append):
        times = [None if at == NO_TIME else at for at in batch.rated_at.tolist()]
        ids = batch.user_ids.to_pylist(), batch.item_ids.to_pylist()
        rows += zip(*ids, batch.rating.tolist(), times, strict=True)
    return rows, rejected


def good(source: Source) -> list[Row]:
    rows, rejected = read(source)
    assert rejected == []
    return rows


ZSTD = pa.compress(b"user,item,rating\nann,10,4\nbob,10,3\n", codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv.gz", gzip.compress(b"user,item,rating\nann,10,4\n", mtime=0) + gzip.compress(b"bob,10,3\n", mtime=0)),
        ("r.csv.bz2", bz2.compress(b"user,item,rating\nann,10,4\nbob,10,3\n")),
        ("r.csv.xz", lzma.compress(b"user,item,rating\nann,10,4\n") + lzma.compress(b"bob,10,3\n")),
        ("r.csv.zst", ZSTD),
        ("named otherwise", gzip.compress(b"user,item,rating\nann,10,4\nbob,10,3\n", mtime=0)),
        ("r.jsonl", '{"user":"ann","item":10,"rating":4.0}\n\n{"rating":3,"item":10,"user":"bob","x":[1]}\n'),
        ("r.json", '{"user_id":{"$oid":"ann"},"item_id":"10","rating":{"$numberInt":"4"}}\n'
                   '{"user_id":"bob","item_id":"10","rating":3}\n'),
        ("r.ndjson.gz",
            gzip.compress(b'{"user":"ann","item":10,"rating":4}\n{"user":"bob","item":10,"rating":3}', mtime=0)),
        ("r.csv", "sep=;\nuser;item;rating\nann;10;4\nbob;10;3\n"),
        ("r.csv", '\ufeff"sep=,"\r\nuser,item,rating\r\nann,10,4\r\nbob,10,3\r\n'),
        ("r.csv", "user, item, rating\nann, 10, 4\nbob, 10, 3\n"),
        ("r.csv", 'user, item, rating\nann, "10", 4\n"bob", 10, "3"\n'),
        ("r.txt", "user  | item | rating\nann   | 10   | 4\nbob   | 10   | 3\n"),
        ("r.tsv", "user\titem\trating\nann\t10\t4\t\t\nbob\t10\t3\t\t\n"),
        ("r.tsv", "user\titem\trating\nann\t10\t4\nbob\t10\t3\t\t\n"),
        ("u.data", "ann\t10\t4\t\nbob\t10\t3\t\n"),
        ("r.inter", "user_id:token\titem_id:token\trating:float\nann\t10\t4\nbob\t10\t3\n"),
        ("r.csv", "# exported on Monday\n# by hand\nuser,item,rating\nann,10,4\nbob,10,3\n"),
        ("r.csv", "#user,item,rating\nann,10,4\nbob,10,3\n"),
        ("r.csv", "user;item;rating\nann;10;4,0\nbob;10;3,0\n"),
        ("r.csv", 'user,item,rating\nann,10,"4,0"\nbob,10,"3,0"\n'),
        ("r.csv", ",user,item,rating\n0,ann,10,4\n1,bob,10,3\n"),
        ("r.csv", 'user;item;text;rating\nann;10;"said \\"no; never\\"";4\nbob;10;"a \\\\ b\\"";3\n'),
        ("r.csv", 'user;item;text;rating\nann;10;"one \\"\nvic;9;x;1\n\\" two";4\nbob;10;x;3\n'),
    ],
    ids=range(24),
)  # fmt: skip
def test_ways_in(file: Write, name: str, content: str | bytes) -> None:
    assert good(open_source(file(name, content))) == EXPECTED


def test_a_packed_file_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    content = gzip.compress(b"user,item,rating\nann,10,4\nbob,10,3\n", mtime=0)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "ratings.csv.gz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("ratings.csv.gz", content)
    for path in (tmp_path / "f", tmp_path / "z.zip"):
        source = open_source(path)
        n_bytes: list[int] = []
        assert len(list(source.ratings(pytest.fail, n_bytes.append))) == 1
        assert sum(n_bytes) == source.n_bytes == len(content)


def test_a_bomb_is_refused(file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "FREE_EXPANSION_BYTES", 1000)
    bomb = gzip.compress(b"user,item,rating\n" + b"ann,10,4\n" * 500_000, mtime=0)
    with pytest.raises(InputError, match="expected at most 250 times the packed size"):
        read(open_source(file("r.csv.gz", bomb)))


@pytest.mark.parametrize(
    "given",
    [b"user,item,rating\nann,10,4\nbob,10,3\n", gzip.compress(b"ann,10,4\nbob,10,3\n", mtime=0)],
    ids=["text", "gzip"],
)
def test_standard_input(given: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert good(open_source("-")) == EXPECTED


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        (["[Content_Types].xml", "xl/workbook.xml"], "an Excel workbook"),
        (["mimetype", "content.xml"], "an OpenDocument spreadsheet"),
    ],
)
def test_a_spreadsheet_is_called_one(file: Write, members: list[str], kind: str) -> None:
    workbook = io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as archive:
        for member in members:
            archive.writestr(member, "<x/>")
    with pytest.raises(InputError, match=rf"r\.xlsx is {kind}: .*as CSV UTF-8"):
        open_source(file("r.xlsx", workbook.getvalue()))


@pytest.mark.parametrize("word", ["NULL", "null", r"\N", "None", "nan", "NaN", "NA", "N/A", "<NA>", "undefined"])
def test_words_for_nothing_are_no_ids(file: Write, word: str) -> None:
    rows, rejected = read(open_source(file("r.csv", f"user,item,rating\n{word},10,4\nann,{word},4\nann,10,4\n")))
    assert rows == [("ann", "10", 4.0, None)]
    assert [row.reason.partition(":")[0] for row in rejected] == [
        f"user_id {word!r} stands for no value",
        f"item_id {word!r} stands for no value",
    ]


def test_a_decimal_comma_between_commas_is_named(file: Write) -> None:
    _, rejected = read(open_source(file("r.csv", "user,item,rating\nann,10,3,5\nbob,10,4\n")))
    assert "or save the file with semicolons if commas are decimal ones" in rejected[0].reason


@pytest.mark.parametrize(
    ("genres", "expected"),
    [
        ("a|b c", ("a", "b c")),
        ("a;b c", ("a", "b c")),
        ('"a, b c"', ("a", "b c")),
        ('"[""a"", ""b c""]"', ("a", "b c")),
        ("\"['a', 'b c']\"", ("a", "b c")),
        ('"[{""id"": 1, ""name"": ""a""}, {""id"": 2, ""name"": ""b c""}]"', ("a", "b c")),
        ('"{a,""b c""}"', ("a", "b c")),
        ('"[a, b c]"', ("a", "b c")),
        ("a | b c |", ("a", "b c")),
        ("[]", ()),
        ("(no genres listed)", ()),
        ("NULL", ()),
        ("b c", ("b c",)),
    ],
)
def test_categories(file: Write, genres: str, expected: tuple[str, ...]) -> None:
    items = file("items.csv", f"item_id,genres\n10,{genres}\n")
    [row] = open_source(file("r.csv", "user,item,rating\nann,10,4\n"), items=items).items(pytest.fail)
    assert row.categories == expected


def test_a_comma_is_part_of_a_name_where_pipes_separate(file: Write) -> None:
    items = file("items.csv", 'item_id,genres\n10,"Arts, Crafts"\n11,"Arts, Crafts|Sports"\n')
    rows = open_source(file("r.csv", "user,item,rating\nann,10,4\n"), items=items).items(pytest.fail)
    assert [row.categories for row in rows] == [("Arts, Crafts",), ("Arts, Crafts", "Sports")]


def test_a_file_of_items_that_matches_few_ratings_is_remarked_on(file: Write) -> None:
    ratings = file("r.csv", "user,item,rating\n" + "".join(f"u,{i},4\n" for i in range(100, 200)))
    items = file("items.csv", "id,book_id,title\n" + "".join(f"{i - 90},{i},T\n" for i in range(100, 200)))

    def notice(**columns: str) -> str | None:
        source = open_source(ratings, items=items, options=ReadOptions(item_columns=columns))
        return source.describe_match("items", source.items(pytest.fail), [str(i) for i in range(100, 200)])

    wrong = notice(item_id="id")
    assert wrong is not None
    assert "describes 10 of 100 rated items" in wrong
    assert wrong.endswith("its column book_id matches the ratings better; name it with --map-items item_id=book_id")
    assert notice(item_id="book_id") is None
    assert notice() is None  # the surest name wins


def test_a_file_without_header_says_how_its_first_row_was_read(file: Write) -> None:
    source = open_source(file("u.data", "ann\t10\t4\t1656105611\n"))
    assert source.notices(0)[0].endswith("user=ann, item=10, rating=4, time=1656105611")


class TestEvents:
    @pytest.mark.parametrize(
        ("content", "options", "weights"),
        [
            ("user,item,timestamp\nann,10,1656105611\nann,10,1656105612\n", ReadOptions(), [1, 1]),
            ("ann,10,1656105611\nann,10,1656105612\n", ReadOptions(), [1, 1]),
            ("ann,10\nbob,11\n", ReadOptions(implicit=True), [1, 1]),
            ("user,item,plays\nann,10,3\nbob,10,0.5\n", ReadOptions(), [3, 0.5]),
            ("user,item,rating\nann,10,3\nbob,10,700\n", ReadOptions(implicit=True), [3, 700]),
            (
                "user,item,event,rating\nann,10,view,\nann,10,buy,\nann,10,hover,\n",
                ReadOptions(event_weights={"view": 1, "buy": 5, "hover": 0}),
                [1, 5],
            ),
        ],
    )
    def test_weights(self, file: Write, content: str, options: ReadOptions, weights: list[float]) -> None:
        source = open_source(file("e.csv", content), options=options)
        assert source.is_implicit
        assert [row[2] for row in good(source)] == weights

    def test_an_event_without_a_weight_is_named(self, file: Write) -> None:
        path = file("e.csv", "user,item,action\nann,10,view\nann,10,buy\n")
        _, rejected = read(open_source(path, options=ReadOptions(event_weights={"view": 1})))
        assert rejected[0].reason.startswith(
            "event 'buy' has no weight: expected one of view; add it to --event-weights"
        )

    def test_numbers_under_an_unknown_name_may_be_ratings(self, file: Write) -> None:
        path = file("e.csv", "user,item,grade\nann,10,4\n")
        with pytest.raises(InputError, match=r"no column for rating .*--implicit, or name it with --map rating=COLUMN"):
            open_source(path)
        assert open_source(path, options=ReadOptions(implicit=True)).is_implicit
        assert not open_source(path, columns={"rating": "grade"}).is_implicit

    @pytest.mark.parametrize("text", ["view", "view=", "=1", "view=x", "view=-1", "view=nan"])
    def test_weights_that_are_none(self, text: str) -> None:
        with pytest.raises(InputError, match="expected NAME=NUMBER"):
            parse_event_weights(text)
        assert parse_event_weights("view=1, add to cart=2.5") == {"view": 1.0, "add to cart": 2.5}
