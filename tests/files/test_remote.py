"""Sources on object stores and web servers, and tables in many files."""

import errno
import gzip
import http.server
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import InputError
from recsys.files import remote
from recsys.files.options import ReadOptions
from recsys.files.source import open_source
from tests.conftest import lacking

CSV = b"user_id,item_id,rating\nu,a,4\nv,b,5\n"


def rows(path: str | Path, rejected: list[str] | None = None) -> list[tuple[str, str, float]]:
    source = open_source(path)
    found: list[tuple[str, str, float]] = []

    def note(each: object) -> None:
        assert rejected is not None, each
        rejected.append(str(each))

    for batch in source.ratings(note):
        found += zip(batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.rating.tolist(), strict=True)
    return found


EXPECTED = [("u", "a", 4.0), ("v", "b", 5.0)]


class TestParts:
    """A folder of parts is one table."""

    def test_folders_whose_names_are_columns(self, tmp_path: Path) -> None:
        for day, user in (("2024-01-01", "u"), ("2024-01-02", "v")):
            folder = tmp_path / f"date={day}"
            folder.mkdir()
            pq.write_table(pa.table({"user_id": [user], "item_id": ["a"], "rating": [4.0]}), folder / "0.parquet")
        (tmp_path / "_SUCCESS").write_text("")
        source = open_source(tmp_path)
        batches = list(source.ratings(lambda _: None))
        assert [batch.user_ids.to_pylist() for batch in batches] == [["u"], ["v"]]
        assert [batch.rated_at.tolist() for batch in batches] == [[1_704_067_200_000], [1_704_153_600_000]]

    def test_parts_in_another_order_of_columns_and_their_rejected_rows(self, tmp_path: Path) -> None:
        (tmp_path / "part-0.csv").write_bytes(CSV)
        (tmp_path / "part-1.csv.gz").write_bytes(gzip.compress(b"rating,user_id,item_id\n3,w,c\nx,w,d\n"))
        rejected: list[str] = []
        assert rows(tmp_path, rejected) == [*EXPECTED, ("w", "c", 3.0)]
        assert len(rejected) == 1
        assert "part-1.csv.gz:3:" in rejected[0]

    def test_a_part_without_a_column_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "part-0.csv").write_bytes(CSV)
        (tmp_path / "part-1.csv").write_bytes(b"user_id,rating,item\nw,3,c\n")
        with pytest.raises(InputError, match=r"part-1\.csv: no column item_id"):
            rows(tmp_path)

    def test_other_folders_are_refused_as_before(self, tmp_path: Path) -> None:
        (tmp_path / "part-0.csv").write_bytes(CSV)
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(InputError, match="holds no ratings"):
            rows(tmp_path)


class TestOtherServices:
    """What another service exported is read by its own names."""

    def test_gorse(self, tmp_path: Path) -> None:
        (tmp_path / "feedback.csv").write_text(
            "feedback_type,user_id,item_id,time_stamp\nread,u,a,2024-01-01T10:00:00Z\nstar,v,b,2024-01-02T10:00:00Z\n"
        )
        weights = ReadOptions(event_weights={"read": 1, "star": 5})
        source = open_source(tmp_path / "feedback.csv", options=weights)
        (batch,) = source.ratings(lambda each: pytest.fail(str(each)))
        assert batch.rating.tolist() == [1, 5]
        assert batch.rated_at.tolist() == [1_704_103_200_000, 1_704_189_600_000]

    def test_personalize(self, tmp_path: Path) -> None:
        files = {
            "interactions": "USER_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP\nu,a,watch,0.5,1704103200\n",
            "items": "ITEM_ID,GENRES,PRICE,CREATION_TIMESTAMP\na,Action|Comedy,3,1570003267\n",
            "users": "USER_ID,AGE,GENDER\nu,33,f\n",
        }
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text)
        path = tmp_path / "interactions.csv"
        source = open_source(path, items=tmp_path / "items.csv", users=tmp_path / "users.csv")
        (batch,) = source.ratings(lambda each: pytest.fail(str(each)))
        assert source.is_implicit
        assert (batch.rating.tolist(), batch.rated_at.tolist()) == ([0.5], [1_704_103_200_000])
        assert source.items(pytest.fail)[0].categories == ("Action", "Comedy")
        assert source.users(pytest.fail)[0].attributes == {"AGE": 33, "GENDER": "f"}


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of an S3 server of our own."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        lacking("needs moto: pip install moto flask-cors")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestObjectStore:
    """s3:// is read through Arrow's client."""

    @pytest.fixture
    def bucket(self, store: str, monkeypatch: pytest.MonkeyPatch) -> str:
        from pyarrow import fs

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL", store)
        client, _ = remote.open_store("s3://shop", "s3")
        assert isinstance(client, fs.S3FileSystem)
        made = fs.S3FileSystem(
            endpoint_override=store.removeprefix("http://"),
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        made.create_dir("shop")
        for key, data in {
            "ratings.csv.gz": gzip.compress(CSV),
            "all/ratings.csv": CSV,
            "hive/kind=a/0.csv": CSV,
            "hive/kind=b/0.csv": b"user_id,item_id,rating\nw,c,3\n",
        }.items():
            with made.open_output_stream(f"shop/{key}", compression=None) as out:
                out.write(data)
        return "s3://shop"

    def test_a_file_a_folder_and_partitions(self, bucket: str) -> None:
        assert rows(f"{bucket}/ratings.csv.gz") == EXPECTED
        assert rows(Path(f"{bucket}/all/")) == EXPECTED  # a Path loses one of the two slashes
        assert rows(f"{bucket}/hive") == [*EXPECTED, ("w", "c", 3.0)]

    def test_what_is_not_there(self, bucket: str) -> None:
        with pytest.raises(InputError, match=r"s3://shop/no\.csv does not exist"):
            rows(f"{bucket}/no.csv")

    def test_a_source_that_is_replaced_while_it_is_read(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        client, _ = remote.open_store(bucket, "s3")
        copy = remote.shutil.copyfileobj

        def replaced(stream: object, out: object, length: int) -> None:
            copy(stream, out, length)
            with client.open_output_stream("shop/ratings.csv.gz") as other:
                other.write(b"other")

        monkeypatch.setattr(remote.shutil, "copyfileobj", replaced)
        with pytest.raises(InputError, match="changed while it was read, so nothing was loaded"):
            rows(f"{bucket}/ratings.csv.gz")

    @pytest.mark.parametrize(
        ("said", "matched"),
        [
            ("When reading: AWS Error ACCESS_DENIED during HeadObject operation", "may not be read.*AWS_ACCESS_KEY_ID"),
            ("AWS Error NETWORK_CONNECTION: curlCode: 28, Timeout was reached", "cannot be read.*Timeout"),
        ],
    )
    def test_errors_name_the_fix(self, said: str, matched: str) -> None:
        with pytest.raises(InputError, match=matched), remote.translate_store_errors("s3://x", "s3"):
            raise OSError(said)


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    servers = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def do_HEAD(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/ratings.csv"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def without_keys(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Name a store, and take every key of S3 away."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address.removesuffix("/ratings.csv"))


def test_a_store_that_refuses_without_keys_names_their_variables(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(403)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    without_keys(monkeypatch, serve(refuse))
    with pytest.raises(InputError, match=r"may not be read.*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        rows("s3://shop/ratings.csv")


def test_a_store_that_sends_half_an_object(serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def half(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CSV)))
        handler.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(CSV[:30])

    without_keys(monkeypatch, serve(half))
    with pytest.raises(InputError, match=r"cannot be read|cut short"):
        rows("s3://shop/ratings.csv")


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_build_without_the_client_of_a_store_names_the_package(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("The pyarrow installation is not built with support for it")

    from pyarrow import fs

    monkeypatch.setattr(fs, {"gs": "GcsFileSystem", "az": "AzureFileSystem"}[scheme], missing)
    with pytest.raises(InputError, match=rf"no client of {scheme}://; install"):
        rows(f"{scheme}://shop/ratings.csv")


def test_a_store_whose_names_lead_out_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Store:
        def get_file_info(self, asked: object) -> object:
            if isinstance(asked, str):
                return SimpleNamespace(is_file=False)
            return [SimpleNamespace(is_file=True, path="shop/all/../../../evil.csv", size=3)]

    monkeypatch.setattr(remote, "open_store", lambda url, scheme: (Store(), "shop/all"))
    with pytest.raises(InputError, match="expected no name of the form"):
        rows("s3://shop/all")


class TestWebServer:
    """https:// is read by Python's client; http here."""

    @staticmethod
    def sends(data: bytes, length: int, pause: float = 0) -> Answer:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(length))
            handler.end_headers()
            handler.wfile.write(data)
            handler.wfile.flush()
            threading.Event().wait(pause)

        return answer

    def test_a_file(self, serve: Callable[[Answer], str]) -> None:
        assert rows(serve(self.sends(CSV, len(CSV)))) == EXPECTED

    def test_half_a_file_is_refused(self, serve: Callable[[Answer], str]) -> None:
        with pytest.raises(InputError, match="cut short while it was read"):
            rows(serve(self.sends(CSV[:30], len(CSV))))

    def test_a_server_that_sends_nothing_more(
        self, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "SECONDS", 0.1)
        with pytest.raises(InputError, match="does not answer"):
            rows(serve(self.sends(CSV[:30], len(CSV), pause=0.5)))

    @pytest.mark.parametrize("status", [403, 404, 500])
    def test_a_server_that_refuses(self, serve: Callable[[Answer], str], status: int) -> None:
        with pytest.raises(InputError, match=rf"the server answered {status}"):
            rows(serve(lambda handler: handler.send_error(status)))

    def test_a_server_that_speaks_no_http(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

            threading.Thread(target=answer, daemon=True).start()
            with pytest.raises(InputError, match=r"cannot be read as HTTP \(SSH-2.0"):
                rows(f"http://127.0.0.1:{server.getsockname()[1]}/ratings.csv")

    def test_addresses_that_people_type(self, serve: Callable[[Answer], str]) -> None:
        address = serve(self.sends(CSV, len(CSV)))
        assert rows(address.replace("ratings", "bewertungen für 2024")) == EXPECTED
        signed = address + "?X-Amz-Signature=" + "5ec2e7" * 50
        assert rows(signed) == EXPECTED
        assert open_source(signed).name == address
        with pytest.raises(InputError) as caught:
            rows(signed.replace("127.0.0.1", "127.0.0.1:x"))
        assert "5ec2e7" not in str(caught.value)
        with pytest.raises(InputError, match="is no address"):
            rows("https://[x/ratings.csv")
        with pytest.raises(InputError, match="has a name and a password in it") as caught:
            rows("https://ann:secret@shop.example/ratings.csv")
        assert "secret" not in str(caught.value)

    def test_what_does_not_fit_on_the_disk(
        self, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = serve(self.sends(CSV, 1 << 60))
        with pytest.raises(InputError, match=r"has 1,152,921,504,606,846,976 bytes, and .* has space for .*TMPDIR"):
            rows(address)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(remote.shutil, "copyfileobj", full)
        with pytest.raises(InputError, match=r"does not fit into .*TMPDIR"):
            rows(serve(self.sends(CSV, len(CSV))))

    def test_no_server(self) -> None:
        with pytest.raises(InputError, match="does not answer"):
            rows("http://127.0.0.1:9/ratings.csv")
