"""Bad input: rows are set aside with line and reason, files are refused with one line that names the fix."""

import gzip
import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.limits import id_problem
from recsys.errors import InputError, MostlyBadError
from recsys.files import delimited
from recsys.files.source import FORMATS, Rejected, open_source

Write = Callable[[str, str | bytes], Path]

HEADER = "user,item,rating,timestamp\n"
GOOD = "u,i,4,881250949\n"


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Writes a file."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rejects(path: Path, **options: Any) -> list[str]:
    """What is said of the bad rows of a file, without its folder; the good ones must all be ("u", "i", 4)."""
    rejected: list[Rejected] = []
    for batch in open_source(path, **options).ratings(rejected.append):
        assert set(batch.user_ids.to_pylist()) <= {"u"}
        assert set(batch.item_ids.to_pylist()) <= {"i"}
        assert set(batch.rating.tolist()) <= {4.0}
    return [str(row).removeprefix(f"{path.parent}/") for row in rejected]


def refusal(path: str | Path, **options: Any) -> str:
    """Why a file is refused, whenever that is found out: one line that names the file."""
    with pytest.raises(InputError) as caught:
        for _ in open_source(path, **options).ratings(lambda _: None):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert Path(path).name in message
    assert "; " in message, "the fix comes last"
    assert ": expected " in message
    return message


MEND = "correct or delete the line"
A_RATING = f"expected a number such as 4 or 3.5; {MEND}"
A_TIME = (
    "expected Unix seconds such as 881250949, milliseconds, microseconds, or ISO 8601 such as "
    "1997-12-04T15:55:49Z; correct it, leave it empty, or name the form with --time-format"
)
ROWS = [
    ("u,i,five,0", f"rating 'five' is not a number: {A_RATING}"),
    ("u,i,,0", f"rating is empty: {A_RATING}"),
    ("u,i,  ,0", f"rating is empty: {A_RATING}"),
    ("u,i,NaN,0", f"rating 'NaN' is not a finite number: {A_RATING}"),
    ("u,i,inf,0", f"rating 'inf' is not a finite number: {A_RATING}"),
    ("u,i,-Infinity,0", f"rating '-Infinity' is not a finite number: {A_RATING}"),
    ("u,i,1e999,0", f"rating '1e999' is too large: expected -1,000,000 to 1,000,000; {MEND}"),
    ("u,i,1e300,0", f"rating '1e300' is too large: expected -1,000,000 to 1,000,000; {MEND}"),
    ("u,i,-1000000.01,0", f"rating '-1000000.01' is too large: expected -1,000,000 to 1,000,000; {MEND}"),
    ("u,i,0x10,0", f"rating '0x10' is not a number: {A_RATING}"),
    ("u,i,1_0,0", f"rating '1_0' is not a number: {A_RATING}"),
    (f"u,i,{'9' * 30}x{'9' * 30},0", f"rating '{'9' * 30}x{'9' * 8}…' is not a number: {A_RATING}"),
    ("u,i,a\x1b[31m,0", rf"rating 'a\x1b[31m' is not a number: {A_RATING}"),
    (",i,4,0", f"user_id is empty: expected an id such as 196; {MEND}"),
    ("u,,4,0", f"item_id is empty: expected an id such as 196; {MEND}"),
    ("u,   ,4,0", f"item_id is blank: expected an id such as 196; {MEND}"),
    ("\u3000,i,4,0", f"user_id is blank: expected an id such as 196; {MEND}"),
    ("a\0b,i,4,0", rf"user_id 'a\x00b' holds a NUL character: expected an id without one; {MEND}"),
    (f"u,{'é' * 513},4,0", f"item_id '{'é' * 39}…' has 1,026 bytes: expected at most 1,024; {MEND}"),
    ("u,i,4,yesterday", f"timestamp 'yesterday' is not a time: {A_TIME}"),
    ("u,i,4,0x10", f"timestamp '0x10' is not a time: {A_TIME}"),
    ("u,i,4,2020-13-01", f"timestamp '2020-13-01' is not a time: {A_TIME}"),
    ("u,i,4,88125094912345678912", f"timestamp '88125094912345678912' is outside the years 1900 to 2200: {A_TIME}"),
    ("u,i,4,1e300", f"timestamp '1e300' is outside the years 1900 to 2200: {A_TIME}"),
    ("u,i,4,1899-12-31T23:59:59Z", f"timestamp '1899-12-31T23:59:59Z' is outside the years 1900 to 2200: {A_TIME}"),
    ("u,i,4,2201-01-01", f"timestamp '2201-01-01' is outside the years 1900 to 2200: {A_TIME}"),
    ("u,i,4", f"3 fields in 'u,i,4': expected 4 (user, item, rating, timestamp) between ','; {MEND}"),
    ("u,i,4,x,0", f"5 fields in 'u,i,4,x,0': expected 4 (user, item, rating, timestamp) between ','; {MEND}"),
    ("nonsense", f"1 field in 'nonsense': expected 4 (user, item, rating, timestamp) between ','; {MEND}"),
]


class TestRows:
    @pytest.mark.parametrize(("row", "reason"), ROWS, ids=[row[:30] for row, _ in ROWS])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_bad_row_is_set_aside_with_its_line_and_reason(
        self, file: Write, row: str, reason: str, end: str
    ) -> None:
        path = file("ratings.csv", (HEADER + GOOD + row + "\n" + GOOD).replace("\n", end))
        assert rejects(path) == [f"ratings.csv:3: {reason}"]

    @pytest.mark.parametrize(("row", "reason"), ROWS, ids=[row[:30] for row, _ in ROWS])
    def test_line_by_line_the_same_is_said(self, file: Write, row: str, reason: str) -> None:
        path = file("ratings.csv", HEADER + GOOD + row + "\n" + GOOD + "\r")
        assert rejects(path) == [f"ratings.csv:3: {reason}"]

    def test_all_of_them_in_one_file(self, file: Write) -> None:
        path = file("ratings.csv", HEADER + GOOD * 40 + "".join(f"\n{row}\n" for row, _ in ROWS))
        assert rejects(path) == [f"ratings.csv:{43 + 2 * i}: {reason}" for i, (_, reason) in enumerate(ROWS)]

    def test_bytes_that_are_no_utf8(self, file: Write) -> None:
        content = (HEADER + GOOD).encode() + "Ren\xe9,i,4,0\nu,i,4,x,\xe9\n".encode("latin-1") + GOOD.encode()
        assert rejects(file("ratings.csv", content)) == [
            r"ratings.csv:3: 'Ren\xe9' is not UTF-8: expected a file in UTF-8; "
            "convert it (iconv -f LATIN1 -t UTF-8) or delete the line",
            r"ratings.csv:4: 5 fields in 'u,i,4,x,\xe9': "
            f"expected 4 (user, item, rating, timestamp) between ','; {MEND}",
        ]

    @pytest.mark.parametrize("last", [True, False])
    def test_a_quote_that_is_never_closed_refuses_the_file(self, file: Write, last: bool) -> None:
        """All that follows may be inside the quotes, and nothing inside quotes is ever a row."""
        path = file("ratings.csv", HEADER + GOOD + 'u,i,4,"881250949\n' + GOOD * (not last))
        with pytest.raises(InputError, match=r"ratings\.csv:3: .* opens a quote that is not closed until the end"):
            rejects(path)

    def test_the_lines_between_two_open_quotes_are_not_rows(self, file: Write) -> None:
        path = file("ratings.csv", HEADER + GOOD + 'u,i,4,"881250949\n' + GOOD + 'v,i,4,"881250949\n' + GOOD)
        assert [reason.partition(" cannot")[0] for reason in rejects(path)] == ["ratings.csv:3: 'u,i,4,\"881250949'"]

    def test_the_first_thing_wrong_is_told_once(self, file: Write) -> None:
        assert rejects(file("r.csv", HEADER + ",,x,y\n")) == [
            f"r.csv:2: user_id is empty: expected an id such as 196; {MEND}"
        ]

    @pytest.mark.parametrize(
        ("rating_range", "scale"),
        [((1.0, 4.5), "1 to 4.5"), ((1.0, None), "at least 1"), ((None, 4.5), "at most 4.5")],
    )
    def test_ratings_off_the_scale(
        self, file: Write, rating_range: tuple[float | None, float | None], scale: str
    ) -> None:
        rating = "0.5" if rating_range[1] is None else "5"
        path = file("r.csv", f"{HEADER}u,i,{rating},0\n{GOOD}")
        assert rejects(path, rating_range=rating_range) == [
            f"r.csv:2: rating '{rating}' is outside the scale: expected {scale}; "
            f"{MEND}, or set RECSYS_RATING_MIN and RECSYS_RATING_MAX"
        ]
        assert rejects(file("s.csv", HEADER + GOOD), rating_range=rating_range) == []

    @pytest.mark.parametrize(
        ("rating", "rating_range", "reason"),
        [
            ("1e300", (1.0, 5.0), "outside the scale: expected 1 to 5"),
            ("1e999", (1.0, 5.0), "outside the scale: expected 1 to 5"),
            ("1e300", (1.0, None), "too large: expected -1,000,000 to 1,000,000"),
            ("-1e300", (1.0, None), "outside the scale: expected at least 1"),
            ("-1e300", (None, 5.0), "too large: expected -1,000,000 to 1,000,000"),
            ("2e6", (0.0, 1e7), "too large: expected -1,000,000 to 1,000,000"),
        ],
    )
    def test_ratings_too_large_to_train_on(
        self, file: Write, tmp_path: Path, rating: str, rating_range: tuple[float | None, float | None], reason: str
    ) -> None:
        [said] = rejects(file("r.csv", f"{HEADER}{GOOD}u,i,{rating},0\n"), rating_range=rating_range)
        assert said.startswith(f"r.csv:3: rating '{rating}' is {reason}; {MEND}")
        if rating == "1e999":
            return  # no double
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "rating": [float(rating)]}), tmp_path / "r.parquet")
        [said] = rejects(tmp_path / "r.parquet", rating_range=rating_range)
        assert said.startswith(f"r.parquet:1: rating {float(rating)} is {reason}; {MEND}")

    def test_the_largest_ratings_there_may_be(self, file: Write) -> None:
        batches = list(open_source(file("r.csv", f"{HEADER}u,i,1e6,0\nu,i,-1000000,0\n")).ratings(pytest.fail))
        assert [batch.rating.tolist() for batch in batches] == [[1e6, -1e6]]

    def test_a_blank_line_is_no_row_but_one_of_empty_fields_is(self, file: Write) -> None:
        assert rejects(file("r.csv", HEADER + "\n,,,\n \n" + GOOD)) == [
            f"r.csv:3: user_id is empty: expected an id such as 196; {MEND}"
        ]

    def test_in_dat_files(self, file: Write) -> None:
        path = file("ratings.dat", "u::i::4::0\nu::i::4\n\nu::i::x::0\n::i::4::0\nu::i::4::0\n")
        assert rejects(path) == [
            f"ratings.dat:2: 3 fields in 'u::i::4': expected 4 between '::'; {MEND}",
            f"ratings.dat:4: rating 'x' is not a number: {A_RATING}",
            f"ratings.dat:5: user_id is empty: expected an id such as 196; {MEND}",
        ]

    def test_text_in_parquet_that_is_no_utf8(self, tmp_path: Path) -> None:
        # Only a broken writer does this: pyarrow itself does not look when it reads.
        broken = pa.array([b"u", b"\xff"], pa.binary()).view(pa.string())
        table = pa.table({"user": broken, "item": ["i", "i"], "rating": pa.array([b"4", b"\xff"]).view(pa.string())})
        pq.write_table(table, tmp_path / "r.parquet")
        assert rejects(tmp_path / "r.parquet") == [
            r"r.parquet:2: user_id '\xff' is not UTF-8: expected text in UTF-8; convert the file, or delete the line"
        ]

    def test_in_parquet(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "user": pa.array([b"u", None, b"\xff", b"u", b"u", b"u"], pa.binary()),
                "item": ["i", "i", "i", " ", "i", "i"],
                "rating": [4, 4, 4, 4, None, 4],
                "rated_at": pa.array([0, 0, 0, 0, 0, 10_000_000_000_000], pa.timestamp("s")),
            }
        )
        pq.write_table(table, tmp_path / "r.parquet")
        year_unknown, *others = reversed(rejects(tmp_path / "r.parquet"))
        assert others[::-1] == [
            f"r.parquet:2: user_id is empty: expected an id such as 196; {MEND}",
            r"r.parquet:3: user_id '\xff' is not UTF-8: expected text in UTF-8; convert the file, or delete the line",
            f"r.parquet:4: item_id is blank: expected an id such as 196; {MEND}",
            f"r.parquet:5: rating is empty: {A_RATING}",
        ]
        assert re.fullmatch(
            r"r\.parquet:6: timestamp .* is outside the years 1900 to 2200: " + re.escape(A_TIME), year_unknown
        )


class TestOneId:
    @pytest.mark.parametrize("value", ["196", "0104257", " a", "é" * 512, b"Ren\xc3\xa9", 7, "\U0001f600"])
    def test_good(self, value: object) -> None:
        assert id_problem(value, "user_id") is None

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (None, "is empty"),
            ("", "is empty"),
            (" \t", "is blank"),
            ("a\0b", r"'a\x00b' holds a NUL character"),
            ("é" * 513, "has 1,026 bytes"),
            ("\ud800", r"'\ud800' is not UTF-8"),
            ("\udcc3\udca9", r"'\xc3\xa9' is not UTF-8"),  # as bytes it would be an é
            (b"Ren\xe9", r"'Ren\xe9' is not UTF-8"),
        ],
    )
    def test_bad(self, value: object, found: str) -> None:
        said = id_problem(value, "user_id")
        assert said is not None
        assert said.startswith("user_id ")
        assert f"{found}: expected " in said
        assert said.isprintable()
        assert said.endswith("delete the line")
        over_http = id_problem(value, "user_id", "send another")
        assert over_http is not None
        assert over_http.endswith("; send another")
        assert over_http.encode()


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0\0\0")) + chunk(b"IEND", b"")
    )


class TestFiles:
    @pytest.mark.parametrize("content", ["", "\n", " \r\n\n", "\ufeff", "\ufeff\n"])
    def test_empty(self, file: Write, content: str) -> None:
        assert "ratings.csv is empty: " in refusal(file("ratings.csv", content))

    @pytest.mark.parametrize("content", ["user,item,rating", "\n\nuserId,movieId,rating,timestamp\r\n\r\n"])
    def test_header_only(self, file: Write, content: str) -> None:
        line = 1 + content.count("\n", 0, content.index("user"))
        assert f"ratings.csv:{line}: a header and no rows: " in refusal(file("ratings.csv", content))

    def test_header_and_blank_lines_beyond_what_is_looked_at(self, file: Write) -> None:
        assert "ratings.csv: no rows: " in refusal(file("ratings.csv", "user,item,rating\n" + "\n" * (1 << 18)))

    @pytest.mark.parametrize(
        ("name", "content", "what"),
        [
            ("a.png", png(), "a PNG image"),
            ("a.pickle", pickle.dumps({"user": [1, 2], "item": [3, 4]}), "not text"),
            ("a.csv", pickle.dumps(list(range(1000)), protocol=0), "is not a row of a table"),
            ("a.bin", bytes(range(256)) * 9, "not text"),
            ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}\n", "a numpy array"),
            ("a.csv.gz", b"\x1f\x8b\x08\x00abc", "cut short or damaged"),
            ("a.json", b'[{"user": 1, "item": 2, "rating": 3}]\n', "one JSON array"),
            (
                "a.tar.gz",
                gzip.compress(b"r.csv".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), mtime=0),
                "a tar archive",
            ),
            ("a.csv", (HEADER + GOOD).encode("utf-16"), "UTF-16"),
            ("b.csv", (HEADER + GOOD).encode("utf-16-le"), "UTF-16"),
            ("c.csv", (HEADER + GOOD).encode("utf-16-be"), "UTF-16"),
            ("mac.csv", (HEADER + GOOD).replace("\n", "\r").encode(), "a carriage return alone"),
            ("prose.txt", b"This is a readme.\nIt has many words, and no\nratings at all.\n", "not a row of a table"),
            ("one.txt", b"1\n2\n3\n", "not a row of a table"),
            ("long.csv", b"x" * (1 << 19), "not a row of a table"),
        ],
    )
    def test_unknown_type(self, file: Write, name: str, content: bytes, what: str) -> None:
        assert what in refusal(file(name, content))

    def test_garbage_called_parquet(self, file: Write) -> None:
        assert "cut short, damaged or not Parquet" in refusal(file("r.parquet", HEADER + GOOD))
        assert "r.parquet is empty" in refusal(file("r.parquet", ""))

    def test_a_line_without_end(self, file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delimited, "MAX_RECORD_BYTES", 1000)
        assert "r.csv:3: the line is longer than 1,000 bytes" in refusal(file("r.csv", HEADER + GOOD + "x" * 2500))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert "does not exist: expected a file or folder" in refusal(tmp_path / "ratings.csv")
        assert "does not exist" in refusal(tmp_path / "no" / "such.zip" / "ratings.csv")

    def test_a_path_below_a_file_that_is_no_zip(self, file: Write) -> None:
        assert "does not exist" in refusal(file("r.csv", HEADER + GOOD) / "inner.csv")

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "ratings.csv")
        assert "is a device or pipe" in refusal(tmp_path / "ratings.csv")

    def test_a_folder_without_ratings(self, file: Write) -> None:
        path = file("stuff/movies.csv", "movieId,title\n1,Heat\n").parent
        message = refusal(path)
        assert "stuff holds no ratings: expected u.data or ratings.csv or" in message
        assert message.endswith(f"it holds {path}/movies.csv")
        empty = path.parent / "empty"
        empty.mkdir()
        assert "empty holds no ratings" in refusal(empty)

    def test_a_folder_with_two_files_of_ratings_or_items(self, file: Write) -> None:
        folder = file("f/ratings.csv", HEADER + GOOD).parent
        file("f/movies.csv", "movieId,title\n1,Heat\n")
        file("f/items.csv", "movieId,title\n1,Heat\n")
        assert "f holds 2 files of items: expected one; name one with --items: " in refusal(folder)
        assert rejects(folder / "ratings.csv", items=folder / "items.csv") == []
        file("f/ratings.dat", "u::i::4\n")
        assert "f holds 2 files of ratings" in refusal(folder)

    def test_a_file_that_may_not_be_read(self, file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = file("ratings.csv", HEADER + GOOD)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("recsys.files.disk.os.open", refuse)  # root may read everything, so chmod shows nothing
        with pytest.raises(InputError, match=r"ratings\.csv cannot be read: permission denied; .*chmod"):
            open_source(path)

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "ratings.csv").symlink_to(tmp_path / "ratings.csv")
        with pytest.raises(InputError, match=r"ratings\.csv (does not exist|cannot be read)"):
            open_source(tmp_path / "ratings.csv")

    def test_an_unknown_format(self, file: Write) -> None:
        with pytest.raises(InputError) as caught:
            open_source(file("r.csv", HEADER + GOOD), format="xlsx")
        expected = f"format 'xlsx' is not known: expected one of {', '.join(FORMATS)}; correct --format"
        assert str(caught.value) == expected

    def test_a_format_that_the_file_has_not(self, file: Write, tmp_path: Path) -> None:
        path = file("r.csv", HEADER + GOOD)
        assert "not a row of a table" in refusal(path, format="dat")
        assert "not Parquet" in refusal(path, format="parquet")
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "rating": [4]}), tmp_path / "r.parquet")
        assert "r.parquet is Parquet: expected csv; leave --format out" in refusal(tmp_path / "r.parquet", format="csv")

    @pytest.mark.parametrize("format", FORMATS)
    def test_every_format_reads_its_own(self, file: Write, tmp_path: Path, format: str) -> None:
        delimiter = {"ml-100k": "\t", "tsv": "\t", "dat": "::"}.get(format, ",")
        path = file("ratings", delimiter.join(["u", "i", "4", "0"]) + "\n")
        if format == "jsonl":
            path = file("ratings", '{"user": "u", "item": "i", "rating": 4}\n')
        if format == "parquet":
            pq.write_table(pa.table({"user": ["u"], "item": ["i"], "rating": [4]}), path)
        assert rejects(path, format=format) == []


class TestColumns:
    @pytest.mark.parametrize(
        ("header", "missing"),
        [
            ("reader,book_id,rating", "user_id"),
            ("user,thing,rating", "item_id"),
            ("user,item,grade", "rating"),
        ],
    )
    def test_a_missing_column(self, file: Write, header: str, missing: str) -> None:
        message = refusal(file("r.csv", f"{header}\nu,i,4\n"))
        assert f"r.csv:1: no column for {missing} among {header.replace(',', ', ')}: expected one called" in message
        assert message.endswith(f"name it with --map {missing}=COLUMN")

    def test_the_line_is_that_of_the_header(self, file: Write) -> None:
        assert "r.csv:3: no column for user_id" in refusal(file("r.csv", "\n\nreader,item,rating\na,b,1\n"))

    def test_a_missing_column_in_parquet(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "grade": [4]}), tmp_path / "r.parquet")
        assert "r.parquet: no column for rating among user, item, grade: " in refusal(tmp_path / "r.parquet")

    def test_a_map_to_a_column_that_is_not_there(self, file: Write) -> None:
        path = file("r.csv", HEADER + GOOD)
        assert (
            "r.csv:1: --map rating=grade names a column that does not exist: "
            "expected one of user, item, rating, timestamp, or a number from 1 to 4; correct --map"
        ) in refusal(path, columns={"rating": "grade"})
        assert "a number from 1 to 4" in refusal(path, columns={"rating": "5"})
        bare = file("u.data", "1\t2\t3\t4\n")
        assert "expected no header, so a number from 1 to 4" in refusal(bare, columns={"rating": "grade"})

    def test_a_map_that_is_wrong_in_itself(self, file: Write) -> None:
        path = file("r.csv", HEADER + GOOD)
        with pytest.raises(InputError, match=r"--map score=…: expected one of user_id, item_id, rating, rated_at"):
            open_source(path, columns={"score": "rating"})
        assert "gives one column to two of" in refusal(path, columns={"user_id": "user", "item_id": "user"})

    def test_a_column_is_not_taken_twice(self, file: Write) -> None:
        path = file("r.csv", "reader,user,rating\nann,i,4\n")
        assert "no column for user_id among reader, user, rating" in refusal(path, columns={"item_id": "user"})

    def test_without_header_a_map_must_name_all(self, file: Write) -> None:
        message = refusal(file("u.data", "1\t2\t3\t4\n"), columns={"rating": "3"})
        assert "u.data:1: --map does not name the column of user_id, and there is no header" in message

    @pytest.mark.parametrize("row", ["1,2\n", "1,2,3,4,5\n"])
    def test_without_header_there_are_three_or_four_columns(self, file: Write, row: str) -> None:
        message = refusal(file("r.csv", row * 3))
        assert f"r.csv:1: {row.count(',') + 1} columns and no header" in message
        assert "--map user_id=1,item_id=2,rating=3" in message

    def test_two_columns_of_one_name(self, file: Write, tmp_path: Path) -> None:
        path = file("r.csv", "user,item,rating,rating\nu,i,4,4\n")
        assert "r.csv:1: columns 3 and 4 are both called rating" in refusal(path)
        assert rejects(path, columns={"rating": "4"}) == []
        pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, ["user", "user"]), tmp_path / "r.parquet")
        assert "two columns are called user" in refusal(tmp_path / "r.parquet")

    @pytest.mark.parametrize(
        ("column", "values", "what"),
        [
            ("user", pa.array([7.0]), "column user holds double numbers: expected strings or integers"),
            ("item", pa.array([7.0], pa.float32()), "astype('Int64')"),
            ("item", pa.array([True]), "column item holds bool: expected strings or integers"),
            ("rating", pa.array([[4]]), "column rating holds list"),
            ("rated_at", pa.array([True]), "column rated_at holds bool: expected timestamps"),
        ],
    )
    def test_parquet_types_that_will_not_do(self, tmp_path: Path, column: str, values: pa.Array, what: str) -> None:
        columns = {
            "user": pa.array(["u"]),
            "item": pa.array(["i"]),
            "rating": pa.array([4.0]),
            "rated_at": pa.array([0]),
        }
        pq.write_table(pa.table({**columns, column: values}), tmp_path / "r.parquet")
        assert what in refusal(tmp_path / "r.parquet")


class TestDamage:
    CONTENT = HEADER + "".join(f"user{i},item{i * 7919 % 1000},{i % 5},{881250949 + i}\n" for i in range(5000))

    def archive(self, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            archive.writestr("ratings.csv", self.CONTENT)
        return buffer.getvalue()

    @pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.9, 0.9999])
    def test_a_zip_cut_short(self, file: Write, share: float) -> None:
        whole = self.archive()
        assert "is cut short or damaged" in refusal(file("r.zip", whole[: int(len(whole) * share) or 1]))

    def test_an_empty_zip(self, file: Write, tmp_path: Path) -> None:
        assert "r.zip is empty" in refusal(file("r.zip", ""))
        with zipfile.ZipFile(tmp_path / "r.zip", "w"):
            pass
        assert "r.zip holds no ratings" in refusal(tmp_path / "r.zip")

    @pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_flipped_byte_in_the_middle(self, file: Write, kind: int) -> None:
        """CRC, zlib, bz2 and lzma each complain in their own way, all of them while rows are being read."""
        damaged = bytearray(self.archive(kind))
        damaged[len(damaged) // 2] ^= 0xFF
        message = refusal(file("r.zip", bytes(damaged)))
        assert "r.zip/ratings.csv is cut short or damaged" in message or "r.zip/ratings.csv cannot be read" in message

    def test_deflated_bytes_that_are_no_longer_any(self, file: Write) -> None:
        damaged = bytearray(self.archive())
        middle = len(damaged) // 2
        damaged[middle : middle + 64] = b"\xff" * 64
        assert "is cut short or damaged (Error -3" in refusal(file("r.zip", bytes(damaged)))

    def test_an_encrypted_zip(self, file: Write) -> None:
        content = bytearray(self.archive())
        content[6] |= 1  # flags in the member's own header
        content[content.rindex(b"PK\x01\x02") + 8] |= 1  # and in the directory
        assert "r.zip/ratings.csv is encrypted: expected a zip without a password" in refusal(
            file("r.zip", bytes(content))
        )

    def test_an_unknown_compression(self, file: Write) -> None:
        content = bytearray(self.archive())
        content[8] = content[content.rindex(b"PK\x01\x02") + 10] = 9  # deflate64
        assert "cannot be unpacked (" in refusal(file("r.zip", bytes(content)))

    def test_a_zip_in_a_zip(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as outer:
            outer.writestr("b.zip", self.archive())
        message = refusal(tmp_path / "a.zip")
        assert message.endswith("a.zip/b.zip")
        assert "a zip inside a zip" in refusal(tmp_path / "a.zip" / "b.zip")

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
    def test_a_parquet_file_cut_short(self, file: Write, tmp_path: Path, share: float) -> None:
        pq.write_table(pa.table({"user": ["u"] * 99, "item": ["i"] * 99, "rating": [4] * 99}), tmp_path / "w.parquet")
        whole = (tmp_path / "w.parquet").read_bytes()
        cut = whole[: int(len(whole) * share)]
        assert "is cut short, damaged or not Parquet" in refusal(file("r.parquet", cut))

    def test_a_parquet_file_damaged_in_the_middle(self, file: Write, tmp_path: Path) -> None:
        users = [f"{i * 7919 % 10007}" for i in range(9999)]
        pq.write_table(pa.table({"user": users, "item": users, "rating": [4] * 9999}), tmp_path / "w.parquet")
        damaged = bytearray((tmp_path / "w.parquet").read_bytes())
        damaged[4:2000] = bytes(1996)
        assert "is cut short, damaged or not Parquet" in refusal(file("r.parquet", bytes(damaged)))

    def test_a_parquet_file_without_rows(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "rating": [4]}).slice(0, 0), tmp_path / "r.parquet")
        assert "r.parquet: columns and no rows: " in refusal(tmp_path / "r.parquet")


class TestItemFiles:
    def refusal(self, file: Write, name: str, content: str | bytes) -> str:
        ratings = file("ratings.csv", HEADER + GOOD)
        with pytest.raises(InputError) as caught:
            open_source(ratings, items=file(name, content))
        assert name in str(caught.value)
        return str(caught.value)

    def test_items_are_looked_at_before_any_rating_is_read(self, file: Write, tmp_path: Path) -> None:
        ratings = file("ratings.csv", HEADER + GOOD)
        with pytest.raises(InputError, match=r"gone\.csv does not exist"):
            open_source(ratings, items=tmp_path / "gone.csv")
        assert "is empty" in self.refusal(file, "items.csv", "")
        assert "a PNG image" in self.refusal(file, "items.png", png())

    def test_no_column_of_ids(self, file: Write) -> None:
        message = self.refusal(file, "items.csv", "thing,title\n1,Heat\n2,Ran\n")
        assert "items.csv:1: no column of item ids among thing, title: expected one called item_id" in message

    def test_too_many_columns_without_header(self, file: Write) -> None:
        assert "4 columns and no header" in self.refusal(file, "items.csv", "1,Heat,x,y\n")

    def test_u_item_needs_its_genres(self, file: Write) -> None:
        line = "242|Kolya (1996)|24-Jan-1997||http://imdb.com/a|0|1\n"
        assert "no u.genre beside it" in self.refusal(file, "u.item", line)
        file("u.genre", "unknown|0\nAction|1\nComedy|2\n")
        assert "u.item:1: 7 fields: expected 5 and one for each of the 3 genres" in self.refusal(file, "u.item", line)
        file("u.genre", "unknown|0\nAction|two\n")
        with pytest.raises(InputError, match=r"u\.genre:2: 'Action\|two': expected a genre and its number"):
            open_source(file("ratings.csv", HEADER + GOOD), items=file("u.item", line))

    def test_a_nul_that_no_database_takes(self, file: Write) -> None:
        content = "item_id,title,genres\n1,Heat,Crime\n2,R\0an,\n3,Alien,Horror|Sci\0Fi\n4,Brazil,\n"
        rejected: list[Rejected] = []
        source = open_source(file("ratings.csv", HEADER + GOOD), items=file("items.csv", content))
        assert [row.item_id for row in source.items(rejected.append)] == ["1", "4"]
        assert [(row.line, row.reason) for row in rejected] == [
            (3, rf"title 'R\x00an' holds a NUL character: expected text without one; {MEND}"),
            (4, rf"category 'Sci\x00Fi' holds a NUL character: expected text without one; {MEND}"),
        ]

    def test_a_nul_in_u_item(self, file: Write) -> None:
        file("u.genre", "unknown|0\nAction|1\n")
        lines = "242|Kolya|24-Jan-1997||http://imdb.com/a|0|1\n243|Jun\0gle|24-Jan-1997||http://imdb.com/b|0|1\n"
        rejected: list[Rejected] = []
        source = open_source(file("ratings.csv", HEADER + GOOD), items=file("u.item", lines))
        assert [row.item_id for row in source.items(rejected.append)] == ["242"]
        assert [row.line for row in rejected] == [2]

    @pytest.mark.parametrize(("n_good", "n_bad"), [(0, 1), (1, 2), (2, 2), (2, 1)])
    def test_a_mostly_bad_file_is_refused_whole(self, file: Write, n_good: int, n_bad: int) -> None:
        # One item again and again: rows are counted, not items.
        content = "item_id,title\n" + "1,Heat\n" * n_good + ",Ran\n" * n_bad
        rejected: list[Rejected] = []
        source = open_source(file("ratings.csv", HEADER + GOOD), items=file("items.csv", content))
        if n_bad <= n_good:
            assert [row.item_id for row in source.items(rejected.append)] == ["1"]
        else:
            with pytest.raises(MostlyBadError, match=rf"items\.csv: {n_bad} of {n_good + n_bad} rows of items were"):
                source.items(rejected.append)
        assert len(rejected) == n_bad

    def test_parquet_items_with_types_that_will_not_do(self, tmp_path: Path, file: Write) -> None:
        ratings = file("ratings.csv", HEADER + GOOD)
        pq.write_table(pa.table({"item_id": [1.0]}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"a\.parquet: column item_id holds double"):
            open_source(ratings, items=tmp_path / "a.parquet")
        pq.write_table(pa.table({"item_id": [1], "genres": [[{"name": "x"}]]}), tmp_path / "b.parquet")
        with pytest.raises(InputError, match=r"b\.parquet: column genres holds list"):
            open_source(ratings, items=tmp_path / "b.parquet")
