"""Every format of rating and item files, by files whose content is known."""

import os
import random
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.dataset import NO_TIME
from recsys.errors import InputError
from recsys.files import delimited
from recsys.files.source import ItemRow, Rejected, Source, open_source

Row = tuple[str, str, float, int | None]

GENRES = ("unknown", "Action", "Comedy")
TOY_STORY_SECONDS = 881250949  # 1997-12-04T15:55:49Z


def read(source: Source) -> tuple[list[Row], list[Rejected]]:
    """All ratings of a source, with None for unknown times, and what was rejected."""
    rejected: list[Rejected] = []
    rows: list[Row] = []
    for batch in source.ratings(rejected.append):
        for ids in (batch.user_ids, batch.item_ids):
            assert pa.types.is_string(ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type)
        assert batch.rating.dtype == np.float64
        assert batch.rated_at.dtype == batch.line.dtype == np.int64
        times = [None if time == NO_TIME else time for time in batch.rated_at.tolist()]
        columns = batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.rating.tolist(), times
        rows += zip(*columns, strict=True)
    return rows, rejected


def good(source: Source) -> list[Row]:
    """All ratings of a source that has no bad rows."""
    rows, rejected = read(source)
    assert rejected == []
    return rows


def items_of(source: Source) -> list[ItemRow]:
    """All items of a source that has no bad ones."""
    rejected: list[Rejected] = []
    items = source.items(rejected.append)
    assert rejected == []
    return items


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def zipped(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


ML_100K: dict[str, str | bytes] = {
    "ml-100k/u.data": "196\t242\t3\t881250949\n186\t302\t4\t891717742\n",
    "ml-100k/u1.base": "1\t1\t5\t874965758\n",
    "ml-100k/u.genre": "unknown|0\nAction|1\nComedy|2\n\n",
    "ml-100k/u.item": (
        "242|Kolya (1996)|24-Jan-1997||http://imdb.com/a|0|0|1\n"
        "302|Les Mis\xe9rables|01-Jan-1998||http://imdb.com/b|0|1|1\n"
        "267|unknown||||1|0|0\n"
    ).encode("latin-1"),
}
ML_100K_RATINGS = [("196", "242", 3.0, 881250949000), ("186", "302", 4.0, 891717742000)]
ML_100K_ITEMS = [
    ItemRow("242", "Kolya (1996)", ("Comedy",), 1996),
    ItemRow("302", "Les Misérables", ("Action", "Comedy"), 1998),
    ItemRow("267", "unknown", ("unknown",), None),
]

ML_LATEST: dict[str, str | bytes] = {
    "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n1,7789,0.5,964981247\r\n",
    "ml-latest-small/movies.csv": (
        "movieId,title,genres\r\n"
        "1,Toy Story (1995),Adventure|Animation\r\n"
        '7789,"11\'09""01 - September 11, or so (2002)",Drama\r\n'
        "156605,Paterson,(no genres listed)\r\n"
    ),
    "ml-latest-small/tags.csv": "userId,movieId,tag,timestamp\r\n2,60756,funny,1445714994\r\n",
}
ML_LATEST_RATINGS = [("1", "1", 4.0, 964982703000), ("1", "7789", 0.5, 964981247000)]
ML_LATEST_ITEMS = [
    ItemRow("1", "Toy Story (1995)", ("Adventure", "Animation"), 1995),
    ItemRow("7789", "11'09\"01 - September 11, or so (2002)", ("Drama",), 2002),
    ItemRow("156605", "Paterson", (), None),
]


class TestKnownDataSets:
    @pytest.mark.parametrize(
        ("members", "ratings", "items"),
        [(ML_100K, ML_100K_RATINGS, ML_100K_ITEMS), (ML_LATEST, ML_LATEST_RATINGS, ML_LATEST_ITEMS)],
        ids=["ml-100k", "ml-latest"],
    )
    @pytest.mark.parametrize("kind", ["zip", "zip named otherwise", "folder in zip", "folder"])
    def test_zip_and_folder(
        self, members: dict[str, str | bytes], ratings: list[Row], items: list[ItemRow], kind: str, tmp_path: Path
    ) -> None:
        top = next(iter(members)).split("/")[0]
        path = zipped(tmp_path / ("data.bin" if kind == "zip named otherwise" else "data.zip"), members)
        if kind == "folder in zip":
            path = path / top
        elif kind == "folder":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(tmp_path)
            path = tmp_path / top
        source = open_source(path)
        assert source.name == str(path)
        assert good(source) == ratings
        assert items_of(source) == items

    def test_dat_folder_takes_movies_beside_it(self, file: Callable[[str, str | bytes], Path]) -> None:
        ratings = file("ml/ratings.dat", "1::0114709::9::1363245118\n2::0113277::10::1362901837\n")
        file("ml/users.dat", "1::F::1::10::48067\n")
        file("ml/movies.dat", "0114709::Toy Story (1995)::Animation|Comedy\n0113277::Heat (1995)::\n")
        source = open_source(ratings.parent)
        assert good(source) == [("1", "0114709", 9.0, 1363245118000), ("2", "0113277", 10.0, 1362901837000)]
        assert items_of(source) == [
            ItemRow("0114709", "Toy Story (1995)", ("Animation", "Comedy"), 1995),
            ItemRow("0113277", "Heat (1995)", (), 1995),
        ]

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_dat_is_utf8_if_all_of_it_is(self, file: Callable[[str, str | bytes], Path], encoding: str) -> None:
        ratings = file("ratings.dat", "rené::1::4::978300760\n".encode(encoding))
        movies = file("movies.dat", "1::Misérables, Les (1995)::Drama\n".encode(encoding))
        source = open_source(ratings, items=movies)
        assert good(source) == [("rené", "1", 4.0, 978300760000)]
        assert items_of(source) == [ItemRow("1", "Misérables, Les (1995)", ("Drama",), 1995)]

    def test_single_file_brings_no_items_but_those_asked_for(self, file: Callable[[str, str | bytes], Path]) -> None:
        ratings = file("ratings.csv", "user,item,rating\nu,1,4\n")
        movies = file("movies.csv", "movieId,title\n1,Heat (1995)\n")
        assert items_of(open_source(ratings)) == []
        expected = [ItemRow("1", "Heat (1995)", (), 1995)]
        assert items_of(open_source(ratings, items=movies)) == expected
        assert items_of(open_source(ratings, items=movies.parent)) == expected

    def test_items_override_those_of_the_folder(self, tmp_path: Path, file: Callable[[str, str | bytes], Path]) -> None:
        archive = zipped(tmp_path / "ml.zip", ML_LATEST)
        other = file("mine.tsv", "item_id\ttitle\n1\tMine\n")
        assert items_of(open_source(archive, items=other)) == [ItemRow("1", "Mine", (), None)]
        inside = zipped(tmp_path / "k.zip", ML_100K) / "ml-100k/u.item"
        assert items_of(open_source(archive, items=inside)) == ML_100K_ITEMS


class TestPathsInsideZips:
    def test_path_goes_on_inside_a_zip(self, tmp_path: Path) -> None:
        source = open_source(zipped(tmp_path / "ml-100k.zip", ML_100K) / "ml-100k" / "u1.base")
        assert good(source) == [("1", "1", 5.0, 874965758000)]
        assert items_of(source) == []

    def test_several_candidates_are_listed_as_paths_that_work(self, tmp_path: Path) -> None:
        members: dict[str, str | bytes] = {f"m/{n}K/ratings.dat": f"{n}::0104257::8::1363245118\n" for n in (10, 20)}
        archive = zipped(tmp_path / "snapshots.zip", members)
        choices = [f"{archive}/m/{n}K/ratings.dat" for n in (10, 20)]
        with pytest.raises(InputError) as caught:
            open_source(archive)
        message = str(caught.value)
        assert message.startswith(f"{archive} holds 2 files of ratings: expected one")
        assert message.endswith(", ".join(choices))
        assert [good(open_source(choice))[0][0] for choice in choices] == ["10", "20"]
        assert good(open_source(archive / "m" / "20K"))[0][:2] == ("20", "0104257")

    def test_wrong_path_inside_a_zip_lists_what_is_there(self, tmp_path: Path) -> None:
        archive = zipped(tmp_path / "ml-100k.zip", ML_100K)
        with pytest.raises(
            InputError, match=r"ml-100k\.zip holds no ml-100k/u9\.base: .*ml-100k\.zip/ml-100k/u1\.base"
        ):
            open_source(archive / "ml-100k" / "u9.base")

    def test_shadow_files_of_macos_are_not_candidates(self, tmp_path: Path) -> None:
        members = {"ratings.csv": "user,item,rating\na,b,1\n", "__MACOSX/ratings.csv": b"\0\5\x16\7"}
        assert good(open_source(zipped(tmp_path / "a.zip", members))) == [("a", "b", 1.0, None)]

    def test_parquet_inside_a_zip(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"user": ["a"], "item": ["b"], "rating": [2.5]}), tmp_path / "r.parquet")
        archive = zipped(tmp_path / "a.zip", {"x/ratings.parquet": (tmp_path / "r.parquet").read_bytes()})
        assert good(open_source(archive)) == [("a", "b", 2.5, None)]

    def test_the_format_chooses_among_several(self, tmp_path: Path) -> None:
        members: dict[str, str | bytes] = {"ratings.csv": "user,item,rating\nc,i,1\n", "ratings.dat": "d::i::1\n"}
        archive = zipped(tmp_path / "a.zip", members)
        with pytest.raises(InputError, match="holds 2 files of ratings"):
            open_source(archive)
        assert good(open_source(archive, format="csv"))[0][0] == "c"
        assert good(open_source(archive, format="dat"))[0][0] == "d"


class TestSniffing:
    @pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::", " ", "  "])
    @pytest.mark.parametrize("header", [True, False])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_delimiter_header_and_line_end(
        self, file: Callable[[str, str | bytes], Path], delimiter: str, header: bool, end: str
    ) -> None:
        lines = [["user_id", "item_id", "rating", "timestamp"]] if header else []
        lines += [["u1", "007", "4", "881250949"], ["u2", "7", "3.5", "881250949000"]]
        source = open_source(file("data.txt", "".join(delimiter.join(line) + end for line in lines)))
        assert good(source) == [("u1", "007", 4.0, 881250949000), ("u2", "7", 3.5, 881250949000)]

    @pytest.mark.parametrize(
        "header",
        [
            "userId,movieId,rating,timestamp",
            "USER,Movie,Score,Date",
            "uid,asin,stars,ts",
            '"User ID","Product-Id","value","created_at"',
            "user_id,item_id,rating,rated_at",
            "user,item,rating,time",
        ],
    )
    def test_names_of_columns(self, file: Callable[[str, str | bytes], Path], header: str) -> None:
        assert good(open_source(file("r.csv", f"{header}\na,b,5,881250949\n"))) == [("a", "b", 5.0, 881250949000)]

    def test_columns_in_another_order_and_others_between(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", "timestamp,comment,rating,item,user\n881250949,\xff,4,i,u\n".encode("latin-1"))
        assert good(open_source(path)) == [("u", "i", 4.0, 881250949000)]

    def test_the_surest_name_wins(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", "user,user_id,movie,item_id,value,rating\nx,u,x,i,9,4\n")
        assert good(open_source(path)) == [("u", "i", 4.0, None)]

    def test_no_header_and_no_time(self, file: Callable[[str, str | bytes], Path]) -> None:
        assert good(open_source(file("r.csv", "alice,m1,4\nbob,m1,3\n"))) == [
            ("alice", "m1", 4.0, None),
            ("bob", "m1", 3.0, None),
        ]

    def test_no_line_feed_at_the_end(self, file: Callable[[str, str | bytes], Path]) -> None:
        assert good(open_source(file("r.csv", "user,item,rating\na,b,1\nc,d,2"))) == [
            ("a", "b", 1.0, None),
            ("c", "d", 2.0, None),
        ]

    def test_byte_order_mark_is_dropped(self, file: Callable[[str, str | bytes], Path]) -> None:
        with_header = file("h.csv", "\ufeffuser,item,rating\na,b,1\n")
        without = file("n.csv", "\ufeff5,b,1\n6,b,1\n")
        assert good(open_source(with_header)) == [("a", "b", 1.0, None)]
        assert good(open_source(without))[0] == ("5", "b", 1.0, None)

    def test_semicolons_with_commas_inside(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", "user;item;rating\na,1;b,2;3\nc,1;d,2;4\n")
        assert good(open_source(path)) == [("a,1", "b,2", 3.0, None), ("c,1", "d,2", 4.0, None)]

    def test_quoted_values(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", 'user,item,rating\n"a,b","say ""hi""","4"\n c ,d"e,3\n')
        assert good(open_source(path)) == [("a,b", 'say "hi"', 4.0, None), (" c ", 'd"e', 3.0, None)]

    def test_map_by_name_and_by_number(self, file: Callable[[str, str | bytes], Path]) -> None:
        named = file("named.csv", "Reader,Book No,Grade,When\nann,0001,7,1997-12-04\n")
        columns = {"user_id": "Reader", "item_id": "Book No", "rating": "grade", "rated_at": "When"}
        assert good(open_source(named, columns=columns)) == [("ann", "0001", 7.0, 881193600000)]
        bare = file("bare.tsv", "7\tx\t0001\tann\n8\ty\t0002\tbob\n")
        columns = {"rating": "1", "item_id": "3", "user_id": "4"}
        assert good(open_source(bare, columns=columns)) == [("ann", "0001", 7.0, None), ("bob", "0002", 8.0, None)]

    def test_numbers_in_the_map_do_not_make_the_first_line_a_header(
        self, file: Callable[[str, str | bytes], Path]
    ) -> None:
        bare = file("u.data", "1\t2\t3\n4\t5\t6\n")
        columns = {"user_id": "1", "item_id": "2", "rating": "3"}
        assert good(open_source(bare, columns=columns)) == [("1", "2", 3.0, None), ("4", "5", 6.0, None)]

    def test_map_of_one_column_leaves_the_others_to_the_header(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", "user,item,rating,helpfulness\na,b,1,5\n")
        assert good(open_source(path, columns={"rating": "helpfulness"})) == [("a", "b", 5.0, None)]
        assert good(open_source(path, columns={"rating": "4"})) == [("a", "b", 5.0, None)]


class TestIds:
    IDS = (
        "0104257",
        "007",
        "7",
        "7.0",
        "1e5",
        "a b",
        " a",
        "a ",
        "Å",
        "A\u030a",
        "ünï",
        "NULLE",
        "nana",
        "-1",
        "x" * 1024,
    )

    @pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.dat", "r.parquet"])
    def test_ids_are_kept_byte_for_byte(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        if name.endswith("parquet"):
            pq.write_table(pa.table({"user_id": self.IDS, "item_id": self.IDS, "rating": [1] * len(self.IDS)}), path)
        else:
            delimiter = {"r.csv": ",", "r.tsv": "\t", "r.dat": "::"}[name]
            lines = [delimiter.join(("user_id", "item_id", "rating"))]
            lines += [delimiter.join((text_id, text_id, "1")) for text_id in self.IDS]
            path.write_text("\n".join(lines), encoding="utf-8", newline="")
        assert good(open_source(path)) == [(text_id, text_id, 1.0, None) for text_id in self.IDS]


class TestTimes:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("881250949", 881250949000),
            ("881250949.25", 881250949250),
            ("8.81250949e8", 881250949000),
            ("+881250949", 881250949000),
            ("881250949000", 881250949000),
            ("881250949123", 881250949123),
            ("881250949123999", 881250949123),
            ("-86400", -86400000),
            ("0", 0),
            ("-2208988800", -2208988800000),
            ("7289654399", 7289654399000),
            (" 881250949 ", 881250949000),
            ("", None),
            ("  ", None),
            ("1997-12-04", 881193600000),
            ("1997-12-04T15:55:49", 881250949000),
            ("1997-12-04 15:55:49", 881250949000),
            ("1997-12-04T15:55:49Z", 881250949000),
            ("1997-12-04T15:55:49+00:00", 881250949000),
            ("1997-12-04 17:25:49.5+01:30", 881250949500),
            ("1997-12-04T15:55:49.123456", 881250949123),
            ("1997-12-04T15:55:49.123456789Z", 881250949123),
            ("19971204T155549Z", 881250949000),
            ("1997-12-04T15:55", 881250900000),
            ("1900-01-01", -2208988800000),
            ("2200-12-31T23:59:59Z", 7289654399000),
        ],
    )
    def test_units_and_iso(self, file: Callable[[str, str | bytes], Path], written: str, expected: int | None) -> None:
        alone = file("alone.csv", f"user,item,rating,timestamp\na,b,1,{written}\n")
        assert good(open_source(alone)) == [("a", "b", 1.0, expected)]
        # Among others of every kind the same comes out of the mixed way.
        mixed = file("mixed.csv", f"user,item,rating,timestamp\na,b,1,5\na,b,1,2000-01-01\na,b,1,{written}\na,b,1,\n")
        assert [row[3] for row in good(open_source(mixed))] == [5000, 946684800000, expected, None]

    def test_a_day_that_is_none_spoils_only_its_own_row(self, file: Callable[[str, str | bytes], Path]) -> None:
        path = file("r.csv", "user,item,rating,date\na,b,1,2020-02-28\na,b,1,2020-02-30\na,b,1,2020-02-29T10:00:00Z\n")
        rows, rejected = read(open_source(path))
        assert [row[3] for row in rows] == [1582848000000, 1582970400000]
        assert [(row.line, row.reason.split(":")[0]) for row in rejected] == [
            (3, "timestamp '2020-02-30' is not a time")
        ]


class TestParquet:
    MOMENT = datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("column", "expected"),
        [
            (pa.array([881250949, None], pa.int64()), 881250949000),
            (pa.array([881250949, None], pa.int32()), 881250949000),
            (pa.array([881250949.0, float("nan")]), 881250949000),
            (pa.array([881250949123456, None]), 881250949123),
            (pa.array([881250949, None], pa.timestamp("s")), 881250949000),
            (pa.array([881250949123, None], pa.timestamp("ms", "Europe/Berlin")), 881250949123),
            (pa.array([881250949123456, None], pa.timestamp("us", "UTC")), 881250949123),
            (pa.array([881250949123456789, None], pa.timestamp("ns")), 881250949123),
            (pa.array([MOMENT.date(), None], pa.date32()), 881193600000),
            (pa.array([MOMENT.date(), None], pa.date64()), 881193600000),
            (pa.array(["1997-12-04T15:55:49Z", ""]), 881250949000),
            (pa.array(["1997-12-04T15:55:49Z", None]).dictionary_encode(), 881250949000),
        ],
        ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
    )
    def test_times(self, tmp_path: Path, column: pa.Array, expected: int) -> None:
        table = pa.table({"user_id": ["a", "b"], "item_id": ["i", "i"], "rating": [1, 2], "rated_at": column})
        pq.write_table(table, tmp_path / "r.parquet")
        assert good(open_source(tmp_path / "r.parquet")) == [("a", "i", 1.0, expected), ("b", "i", 2.0, None)]

    @pytest.mark.parametrize(
        ("column", "expected"),
        [
            (pa.array([7, 12], pa.int8()), ["7", "12"]),
            (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
            (pa.array([-(2**63), 1], pa.int64()), ["-9223372036854775808", "1"]),
            (pa.array(["007", "ü"], pa.large_string()), ["007", "ü"]),
            (pa.array(["007", "ü"]).dictionary_encode(), ["007", "ü"]),
            (pa.array([b"007", "ü".encode()], pa.binary()), ["007", "ü"]),
        ],
        ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
    )
    def test_ids(self, tmp_path: Path, column: pa.Array, expected: list[str]) -> None:
        pq.write_table(pa.table({"user": column, "item": column, "rating": [1.5, 2]}), tmp_path / "r.parquet")
        rows = good(open_source(tmp_path / "r.parquet"))
        assert rows == [(expected[0], expected[0], 1.5, None), (expected[1], expected[1], 2.0, None)]

    @pytest.mark.parametrize("kind", [pa.int8(), pa.float32(), pa.float64(), pa.decimal128(5, 1), pa.string()], ids=str)
    def test_ratings(self, tmp_path: Path, kind: pa.DataType) -> None:
        ratings = pa.array(["4", "3"]).cast(kind)
        pq.write_table(pa.table({"user": ["a", "b"], "item": ["i", "i"], "rating": ratings}), tmp_path / "r.parquet")
        assert [row[2] for row in good(open_source(tmp_path / "r.parquet"))] == [4.0, 3.0]

    def test_folder_with_ratings_and_items_in_parquet(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"user": [1], "item": [7], "rating": [4]}), tmp_path / "ratings.parquet")
        items = {
            "item_id": [7, 8, None],
            "title": ["Heat (1995)", None, "Nobody"],
            "genres": [["Crime", "Drama", "Crime"], [], None],
            "year": [1996, None, 2000],
        }
        pq.write_table(pa.table(items), tmp_path / "items.parquet")
        source = open_source(tmp_path)
        assert good(source) == [("1", "7", 4.0, None)]
        rejected: list[Rejected] = []
        assert source.items(rejected.append) == [
            ItemRow("7", "Heat (1995)", ("Crime", "Drama"), 1996),
            ItemRow("8", None, (), None),
        ]
        assert [str(row) for row in rejected] == [
            f"{tmp_path}/items.parquet:3: item_id is empty: expected an id such as 196; correct or delete the line"
        ]

    def test_rows_are_numbered_across_batches_and_bytes_add_up(self, tmp_path: Path) -> None:
        n = 300_001
        users = [str(i) for i in range(n)]
        users[260_000] = ""
        table = pa.table({"user_id": users, "item_id": users[::-1], "rating": np.ones(n)})
        pq.write_table(table, tmp_path / "r.parquet", row_group_size=120_000)
        source = open_source(tmp_path / "r.parquet")
        rejected: list[Rejected] = []
        n_bytes: list[int] = []
        batches = list(source.ratings(rejected.append, n_bytes.append))
        assert [row.line for row in rejected] == [40_001, 260_001]
        lines = np.concatenate([batch.line for batch in batches])
        assert lines.tolist() == [i for i in range(1, n + 1) if i not in (40_001, 260_001)]
        assert max(len(batch.line) for batch in batches) <= 250_000
        assert sum(n_bytes) == source.n_bytes == os.path.getsize(tmp_path / "r.parquet")


class TestItems:
    def items(self, file: Callable[[str, str | bytes], Path], name: str, content: str | bytes) -> list[ItemRow]:
        return items_of(open_source(file("r.csv", "user,item,rating\nu,1,4\n"), items=file(name, content)))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("item_id,title,categories,year\n1,Heat,a|b,1995\n", ItemRow("1", "Heat", ("a", "b"), 1995)),
            (
                "movieId\tname\tgenres\n1\tHeat (1995)\tCrime | Drama|\n",
                ItemRow("1", "Heat (1995)", ("Crime", "Drama"), 1995),
            ),
            ("asin;title;category\n01;Heat;x,y\n", ItemRow("01", "Heat", ("x", "y"), None)),
            ("id,Year\n1,1995.0\n", ItemRow("1", None, (), 1995)),
            ("1,Heat (1995)\n2,Se7en\n", ItemRow("1", "Heat (1995)", (), 1995)),
            ("1::Heat ::Crime\n", ItemRow("1", "Heat", ("Crime",), None)),
            ("item_id,title\n1,Space Odyssey (1968) (2001) \n", ItemRow("1", "Space Odyssey (1968) (2001)", (), 2001)),
            ("item_id,title\n1,Planet Earth (2006–2007)\n", ItemRow("1", "Planet Earth (2006–2007)", (), 2006)),
            ('item_id,title,plot\n1,Heat,"two\nlines, and ""more"""\n', ItemRow("1", "Heat", (), None)),
            ("\ufeffitem_id,title\r\n1,Été\r\n", ItemRow("1", "Été", (), None)),
        ],
    )
    def test_spellings(self, file: Callable[[str, str | bytes], Path], content: str, expected: ItemRow) -> None:
        assert self.items(file, "items.txt", content)[0] == expected

    def test_the_later_of_two_lines_stands(self, file: Callable[[str, str | bytes], Path]) -> None:
        content = "item_id,title\n1,old\n2,two\n1,new\n"
        assert self.items(file, "items.csv", content) == [ItemRow("2", "two", (), None), ItemRow("1", "new", (), None)]

    def test_bad_items_are_set_aside_with_their_lines(self, file: Callable[[str, str | bytes], Path]) -> None:
        content = (
            b"item_id,title\n"  # 1
            b"1,one\n"
            b",two\n"  # 3: no id
            b"3,three,much\n"  # 4: one field too many
            b"\n"
            b'6,"six\nand a half"\n'  # 6 and 7
            b"7,\xe9t\xe9\n"  # 8: Latin-1
            b"8,eight\n"
            b'4,"open\n5,five"\n'  # 10 and 11: one value
            b"9,nine\n"
            b"10,ten\n"
        )
        rejected: list[Rejected] = []
        source = open_source(file("r.csv", "user,item,rating\nu,1,4\n"), items=file("items.csv", content))
        items = source.items(rejected.append)
        assert [(item.item_id, item.title) for item in items] == [
            ("1", "one"),
            ("6", "six\nand a half"),
            ("8", "eight"),
            ("4", "open\n5,five"),
            ("9", "nine"),
            ("10", "ten"),
        ]
        assert [(row.line, row.reason.split(": ")[0]) for row in rejected] == [
            (3, "item_id is empty"),
            (4, "3 fields in '3,three,much'"),
            (8, r"'\xe9t\xe9' is not UTF-8"),
        ]
        assert all(row.file.endswith("items.csv") for row in rejected)

    def test_item_column_named_by_map_is_looked_for_in_the_items_too(
        self, file: Callable[[str, str | bytes], Path]
    ) -> None:
        ratings = file("r.csv", "user,wine,rating\nu,1,4\n")
        items = file("i.csv", "wine,title\n1,Rioja\n")
        source = open_source(ratings, items=items, columns={"item_id": "wine"})
        assert items_of(source) == [ItemRow("1", "Rioja", (), None)]


class TestBlocks:
    def test_lines_stay_right_across_blocks_and_bad_rows(
        self, file: Callable[[str, str | bytes], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
        lines = ["user,item,rating"]
        bad = {}
        for line in range(2, 400):
            if line % 7 == 0:
                lines.append(f"u{line},i,x")
                bad[line] = "rating 'x' is not a number"
            elif line % 11 == 0:
                lines.append(f"u{line},i")
                bad[line] = f"2 fields in 'u{line},i'"
            elif line % 13 == 0:
                lines.append("   " if line % 2 else "")
            elif line % 17 == 0:
                lines.append(f"u{line},i,3,4")
                bad[line] = f"4 fields in 'u{line},i,3,4'"
            else:
                lines.append(f"u{line},i,3")
        source = open_source(file("r.csv", "\n".join(lines)))
        rejected: list[Rejected] = []
        n_bytes: list[int] = []
        batches = list(source.ratings(rejected.append, n_bytes.append))
        assert len(batches) > 50
        for batch in batches:
            assert batch.user_ids.to_pylist() == [f"u{line}" for line in batch.line]
        expected = [line for line in range(2, 400) if line not in bad and line % 13 != 0]
        assert np.concatenate([batch.line for batch in batches]).tolist() == expected
        assert {row.line: row.reason.split(": ")[0] for row in rejected} == bad
        assert [row.line for row in rejected] == sorted(bad)
        assert sum(n_bytes) == source.n_bytes

    @pytest.mark.parametrize("inside", [False, True])
    def test_bytes_add_up_to_the_uncompressed_size(self, tmp_path: Path, inside: bool) -> None:
        content = "\ufeff\nuser,item,rating\n" + "a,b,1\n" * 1000
        path = tmp_path / "ratings.csv"
        path.write_text(content, encoding="utf-8")
        source = open_source(zipped(tmp_path / "a.zip", {"ratings.csv": content}) if inside else path)
        n_bytes: list[int] = []
        assert sum(len(batch.line) for batch in source.ratings(lambda _: None, n_bytes.append)) == 1000
        assert sum(n_bytes) == source.n_bytes == len(content.encode())

    @pytest.mark.parametrize("delimiter", [",", "::", " "])
    def test_the_slow_way_agrees_with_the_fast_way(
        self, file: Callable[[str, str | bytes], Path], delimiter: str
    ) -> None:
        """The last line sends the block down the slow way; the rows before it must come out the same."""
        rng = random.Random(7)
        pieces = ["a", "7", "é", '""', '"x"', '"a,b"', ",", "::", ":", ";", " ", "", "\t", "4", "x\ty", "3.5"]
        for _ in range(150):
            body = "".join(
                delimiter.join("".join(rng.choices(pieces, k=rng.randint(1, 2))) for _ in range(2)) + f"{delimiter}4\n"
                for _ in range(12)
            )
            # Enough plain lines before them that there is no doubt of the delimiter.
            header = delimiter.join(("user", "item", "rating")) + "\n" + (delimiter.join("ab4") + "\n") * 99
            rows, rejected = read(open_source(file("fast.txt", header + body), columns=COLUMNS))
            slow_rows, slow_rejected = read(
                open_source(file("slow.txt", (header + body).encode() + b"\rz"), columns=COLUMNS)
            )
            assert slow_rows == rows
            assert [(row.line, row.reason) for row in slow_rejected][: len(rejected)] == [
                (row.line, row.reason) for row in rejected
            ]

    def test_a_reader_that_raises_leaves_nothing_open(self, file: Callable[[str, str | bytes], Path]) -> None:
        def refuse(row: Rejected) -> None:
            raise RuntimeError(str(row))

        source = open_source(file("r.csv", "user,item,rating\na,b,x\n"))
        with pytest.raises(RuntimeError, match=r"r\.csv:2: rating 'x' is not a number"):
            list(source.ratings(refuse))


COLUMNS = {"user_id": "user", "item_id": "item", "rating": "rating"}


@pytest.mark.shared_data
class TestRealData:
    @pytest.mark.parametrize(
        ("path", "n_ratings", "n_users", "n_items", "total"),
        [
            ("ml-100k.zip", 100_000, 943, 1682, 352_986.0),
            ("ml-100k.zip/ml-100k/u1.base", 80_000, 943, 1650, None),
            ("ml-100k.zip/ml-100k/u1.test", 20_000, 459, 1410, None),
            ("ml-latest-small.zip", 100_836, 610, 9724, None),
            ("ml-1m", 1_000_209, 6040, 3706, None),
            ("movietweetings-snapshots.zip/movietweetings/10K/ratings.dat", 10_000, 3794, 3096, None),
        ],
    )
    def test_counts(
        self, shared_data: Path, path: str, n_ratings: int, n_users: int, n_items: int, total: float | None
    ) -> None:
        rejected: list[Rejected] = []
        batches = list(open_source(shared_data / path).ratings(rejected.append))
        assert rejected == []
        assert sum(len(batch.line) for batch in batches) == n_ratings
        assert len(pa.chunked_array([batch.user_ids for batch in batches]).unique()) == n_users
        assert len(pa.chunked_array([batch.item_ids for batch in batches]).unique()) == n_items
        if total is not None:
            assert sum(batch.rating.sum() for batch in batches) == total

    def test_items(self, shared_data: Path) -> None:
        hundred_k = {item.item_id: item for item in items_of(open_source(shared_data / "ml-100k.zip"))}
        assert len(hundred_k) == 1682
        assert hundred_k["50"] == ItemRow(
            "50", "Star Wars (1977)", ("Action", "Adventure", "Romance", "Sci-Fi", "War"), 1977
        )
        assert hundred_k["543"].title == "Misérables, Les (1995)"
        latest = {item.item_id: item for item in items_of(open_source(shared_data / "ml-latest-small.zip"))}
        assert len(latest) == 9742
        assert latest["7789"] == ItemRow("7789", "11'09\"01 - September 11 (2002)", ("Drama",), 2002)
        assert latest["156605"].categories == ()
        million = {item.item_id: item for item in items_of(open_source(shared_data / "ml-1m"))}
        assert len(million) == 3883
        assert million["73"] == ItemRow("73", "Misérables, Les (1995)", ("Drama", "Musical"), 1995)

    def test_leading_zeros_stay(self, shared_data: Path) -> None:
        path = shared_data / "movietweetings-snapshots.zip/movietweetings/20K/ratings.dat"
        assert ("2", "0104257", 8.0, 1364690142000) in good(open_source(path))

    def test_five_snapshots_are_refused_with_their_paths(self, shared_data: Path) -> None:
        with pytest.raises(InputError, match="holds 5 files of ratings") as caught:
            open_source(shared_data / "movietweetings-snapshots.zip")
        choices = str(caught.value).split("read: ")[1].split(", ")
        assert len(choices) == 5
        assert all(open_source(choice).n_bytes > 0 for choice in choices)
