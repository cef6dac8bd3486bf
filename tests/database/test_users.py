"""Users: from files whose content is known, and in the database."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from recsys.data.rows import Rejected, UserRow
from recsys.database import schema
from recsys.database.changes import current_seq
from recsys.database.engine import reading
from recsys.database.users import upsert_users
from recsys.errors import InputError, MostlyBadError
from recsys.files.source import open_source

Write = Callable[[str, str | bytes], Path]

MEND = "correct or delete the line"


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Writes a file."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def ratings(file: Write) -> Path:
    return file("ratings.csv", "user,item,rating\nu,i,4\n")


def users_of(ratings: Path, users: Path | None = None, **columns: str) -> list[UserRow]:
    """All users of a file that has no bad ones."""
    rejected: list[Rejected] = []
    rows = open_source(ratings, users=users, columns=columns).users(rejected.append)
    assert rejected == []
    return rows


def rejects(ratings: Path, users: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """Ids of the good users, and line and reason of the others."""
    rejected: list[Rejected] = []
    rows = open_source(ratings, users=users).users(rejected.append)
    assert {Path(row.file).name for row in rejected} <= {users.name}
    return [row.user_id for row in rows], [(row.line, row.reason) for row in rejected]


class TestMovieLens:
    def test_100k(self, file: Write) -> None:
        file("u.data", "1\t242\t3\t881250949\n")
        users = file("u.user", "1|24|M|technician|85711\n2||F|other|T8H1N\n")
        expected = [
            UserRow("1", (), {"age": 24, "gender": "M", "occupation": "technician", "zip_code": "85711"}),
            UserRow("2", (), {"gender": "F", "occupation": "other", "zip_code": "T8H1N"}),
        ]
        assert users_of(users.parent) == expected
        assert users_of(users.parent / "u.data") == []
        assert users_of(users.parent / "u.data", users.parent) == expected

    def test_1m_whose_occupations_are_codes(self, file: Write) -> None:
        ratings = file("ratings.dat", "1::1193::5::978300760\n")
        file("users.dat", "1::F::1::10::48067\n4::M::45::7::02460\n")
        assert users_of(ratings.parent) == [
            UserRow("1", (), {"gender": "F", "age": 1, "occupation": "10", "zip_code": "48067"}),
            UserRow("4", (), {"gender": "M", "age": 45, "occupation": "7", "zip_code": "02460"}),
        ]

    def test_movietweetings(self, file: Write) -> None:
        ratings = file("ratings.dat", "1::0114508::8::1381006850\n")
        file("users.dat", "1::139564917\n2::17528189\n")
        assert users_of(ratings.parent)[1] == UserRow("2", (), {"twitter_id": "17528189"})

    def test_bad_rows(self, file: Write, ratings: Path) -> None:
        users = file(
            "u.user", "1|24|M|technician|85711\n2|old|F|other|94043\n|23|M|writer|32067\n4|24|M\n5|9|M|\0|0\n6||||\n"
        )
        good, said = rejects(ratings, file("more.user", users.read_bytes() + b"7||||\n8||||\n"))
        assert good == ["1", "6", "7", "8"]
        assert said == [
            (2, f"age 'old' is not a number: expected one such as 24; {MEND}"),
            (3, f"user_id is empty: expected an id such as 196; {MEND}"),
            (4, f"3 fields in '4|24|M': expected 5 between '|'; {MEND}"),
            (5, rf"occupation '\x00' holds a NUL character: expected text without one; {MEND}"),
        ]


class TestTables:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("user_id,age\nann,24\nbob,\n", [UserRow("ann", (), {"age": 24}), UserRow("bob", (), {})]),
            ("age\tUser ID\tcity\n24\t007\t Oslo \n", [UserRow("007", (), {"age": 24, "city": "Oslo"})]),
            ("customerId;tier\nann;gold\nbob;\n", [UserRow("ann", (), {"tier": "gold"}), UserRow("bob", (), {})]),
            (
                "id::segments::paid\n1::a| b|a::2.50\n2::::3.0\n",
                [UserRow("1", ("a", "b"), {"paid": 2.5}), UserRow("2", (), {"paid": 3})],
            ),
            ("user,category,categories\n1,x,a;b\n", [UserRow("1", ("a", "b"), {"category": "x"})]),
            # One value that is no number, and the column is text.
            ("user,size\n1,42\n2,XL\n", [UserRow("1", (), {"size": "42"}), UserRow("2", (), {"size": "XL"})]),
            ("user,branch\n1,007\n2,12\n", [UserRow("1", (), {"branch": "007"}), UserRow("2", (), {"branch": "12"})]),
            ("user,ZIP Code,n\n1,85711,1e3\n", [UserRow("1", (), {"ZIP Code": "85711", "n": 1000})]),
            ("user,card\n1,1234567890123456789\n", [UserRow("1", (), {"card": "1234567890123456789"})]),
            (",user,x\n0,1,-0.5\n", [UserRow("1", (), {"x": -0.5})]),
            ("user,x\n1,a\n2,b\n1,c\n", [UserRow("2", (), {"x": "b"}), UserRow("1", (), {"x": "c"})]),
        ],
    )
    def test_spellings(self, file: Write, ratings: Path, content: str, expected: list[UserRow]) -> None:
        assert users_of(ratings, file("people.txt", content)) == expected

    def test_found_beside_the_ratings_and_overridden(self, file: Write, ratings: Path) -> None:
        assert users_of(ratings.parent) == []
        file("users.csv", "user,x\n1,beside\n")
        assert users_of(ratings.parent) == [UserRow("1", (), {"x": "beside"})]
        other = file("people.csv", "user,x\n1,other\n")
        assert users_of(ratings.parent, other) == [UserRow("1", (), {"x": "other"})]

    def test_user_column_named_by_map_is_looked_for_in_the_users_too(self, file: Write) -> None:
        ratings = file("r.csv", "reader,item,rating\nu,1,4\n")
        assert users_of(ratings, file("p.csv", "id,reader\n1,u\n"), user_id="reader") == [UserRow("u", (), {"id": 1})]

    def test_parquet_keeps_types(self, tmp_path: Path, ratings: Path) -> None:
        columns = {
            "user_id": [1, 2],
            "age": pa.array([24.0, float("nan")]),
            "height": pa.array([1.75, None]),
            "digits": ["042", ""],
            "zip": [85711, None],
            "is_member": [True, False],
            "devices": [["phone", "tv"], []],
            "tier": pa.array(["gold", None]).dictionary_encode(),
            "segments": [["a", "b", "a"], None],
            "joined": pa.array([1, 2], pa.timestamp("ns")),
            "address": [{"street": "x"}, None],
        }
        pq.write_table(pa.table(columns), tmp_path / "p.parquet")
        assert users_of(ratings, tmp_path / "p.parquet") == [
            UserRow(
                "1",
                ("a", "b"),
                {
                    "age": 24,
                    "height": 1.75,
                    "digits": "042",
                    "zip": "85711",
                    "is_member": True,
                    "devices": ["phone", "tv"],
                    "tier": "gold",
                },
            ),
            UserRow("2", (), {"is_member": False}),
        ]

    def test_bad_rows_are_set_aside_with_their_lines(self, tmp_path: Path, file: Write, ratings: Path) -> None:
        bad = b" ,Rome,a\n3,Pa\0ris,a\n4,Bonn,a|\0\n5,\xe9,a\n6,Ulm\n"
        plain = "".join(f"u{i},Oslo,a|b\n" for i in range(9))
        good, said = rejects(ratings, file("p.csv", b"user,city,segments\n1,Oslo,a\n" + bad + plain.encode()))
        assert good == ["1", *(f"u{i}" for i in range(9))]
        assert [(line, reason.split(":")[0]) for line, reason in said] == [
            (3, "user_id is blank"),
            (4, r"city 'Pa\x00ris' holds a NUL character"),
            (5, r"category '\x00' holds a NUL character"),
            (6, r"'\xe9' is not UTF-8"),
            (7, "2 fields in '6,Ulm'"),
        ]
        pq.write_table(pa.table({"user": ["1", "2"], "x": [1.5, float("inf")]}), tmp_path / "p.parquet")
        expected = [(2, f"x inf is not a finite number: expected one such as 24; {MEND}")]
        assert rejects(ratings, tmp_path / "p.parquet") == (["1"], expected)

    def test_a_mostly_bad_file_is_refused_whole(self, file: Write, ratings: Path) -> None:
        source = open_source(ratings, users=file("p.csv", "user,x\n1,a\n,b\n,c\n"))
        with pytest.raises(MostlyBadError, match=r"p\.csv: 2 of 3 rows of users were .*name another file with --users"):
            source.users(lambda _: None)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("p.csv", "name,age\nann,24\n", r"p\.csv:1: no column of user ids among name, age: expected one called"),
            ("p.csv", "1,24\n2,25\n", r"p\.csv:1: no column of user ids among 1, 24"),
            ("p.dat", "1::2::3\n", r"p\.dat:1: 3 columns and no header: .* a first line such as user_id,age"),
            ("p.csv", "user,age,age\n1,2,3\n", r"p\.csv:1: columns 2 and 3 are both called age: .*rename one"),
            ("p.csv", "user,user,age\n1,2,3\n", r"p\.csv:1: columns 1 and 2 are both called user"),
            ("p.csv", "user,a\0e\n1,2\n", r"p\.csv:1: column 'a\\x00e' holds a NUL"),
            ("p.csv", "", "is empty: expected ratings, items or users"),
        ],
    )
    def test_what_is_no_file_of_users(self, file: Write, ratings: Path, name: str, content: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            open_source(ratings, users=file(name, content))

    def test_two_files_of_users_or_none(self, tmp_path: Path, file: Write, ratings: Path) -> None:
        with pytest.raises(InputError, match=r"holds no users: expected u\.user or .*; name the file with --users"):
            open_source(ratings, users=tmp_path)
        file("users.csv", "user,x\n1,a\n")
        file("users.tsv", "user\tx\n1\ta\n")
        with pytest.raises(
            InputError, match=r"holds 2 files of users: expected one; name one with --users: .*users\.tsv"
        ):
            open_source(tmp_path)

    def test_parquet_ids_of_a_type_that_will_not_do(self, tmp_path: Path, ratings: Path) -> None:
        pq.write_table(pa.table({"user_id": [1.0]}), tmp_path / "p.parquet")
        with pytest.raises(InputError, match=r"p\.parquet: column user_id holds double"):
            open_source(ratings, users=tmp_path / "p.parquet")


class TestDatabase:
    def stored(self, engine: Engine) -> tuple[int, list[tuple[str, list[str], dict[str, object]]]]:
        """The number of the last change, and all users in the order of their keys."""
        users = schema.users.c
        with reading(engine) as connection:
            rows = connection.execute(
                select(users.user_id, users.categories, users.attributes).order_by(users.user_key)
            )
            return current_seq(connection), [tuple(row) for row in rows]

    def test_users_are_described_and_not_undescribed(self, engine: Engine) -> None:
        values = {"age": 24, "city": "Ål", "height": 1.75, "tiny": 1e-9, "member": True, "devices": ["tv", 2]}
        assert upsert_users(engine, [UserRow("z", (), {}), UserRow("7", ("a", "b"), values)]) == 2
        assert self.stored(engine) == (1, [("7", ["a", "b"], values), ("z", [], {})])
        assert upsert_users(engine, [UserRow("z", ("c",), {}), UserRow("7", (), {"age": 25})]) == 2
        after = [("7", ["a", "b"], {**values, "age": 25}), ("z", ["c"], {})]
        assert self.stored(engine) == (2, after)
        assert upsert_users(engine, [UserRow("z", ("c",), {}), UserRow("7", (), {**values, "age": 25})]) == 0
        assert self.stored(engine) == (2, after)

    def test_of_two_rows_of_one_user_the_last_stands(self, engine: Engine) -> None:
        assert upsert_users(engine, [UserRow("1", (), {"x": "old"}), UserRow("1", (), {"x": "new"})]) == 1
        assert self.stored(engine)[1] == [("1", [], {"x": "new"})]
        assert upsert_users(engine, []) == 0

    @pytest.mark.shared_data
    @pytest.mark.parametrize(("name", "n_users"), [("ml-100k.zip", 943), ("ml-1m", 6040)])
    def test_real_users(self, engine: Engine, shared_data: Path, name: str, n_users: int) -> None:
        rows = users_of(shared_data / name)
        assert len(rows) == n_users
        assert all(row.attributes.keys() == {"age", "gender", "occupation", "zip_code"} for row in rows)
        assert {row.attributes["gender"] for row in rows} == {"F", "M"}
        assert len({row.attributes["occupation"] for row in rows}) == 21
        assert upsert_users(engine, rows) == n_users
        before = self.stored(engine)
        assert upsert_users(engine, rows) == 0
        assert self.stored(engine) == before
