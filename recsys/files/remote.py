"""Files in object stores and on web servers, copied to the disk before they are read.

`s3://`, `gs://` and `az://` are read by Arrow's own clients, `https://` by Python's. The copy has no name any more
while it is read, or lies in a folder that is deleted at the end. A source that is cut short, or replaced while it is
copied, is refused. So each form of file is read as one from the disk is, and in as little memory.
"""

import errno
import http.client
import os
import re
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from recsys.data.limits import MAX_REMOTE_FILES
from recsys.data.messages import printable
from recsys.errors import InputError
from recsys.files.disk import DiskFile, translate_errors

SECONDS = 60.0
"""Seconds without a byte after which a source counts as gone."""
_CHUNK_BYTES = 1 << 20
_REMOTE = re.compile(r"(s3|gs|az|https?):/{1,2}(?=[^/])")

_KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for another store), or give this "
    "machine a role",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give this machine a role",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def remote_url(path: str | Path) -> str | None:
    """Return a path as the address it was typed as; `None` if it is one on the disk.

    A `Path` has lost one of the two slashes.
    """
    typed = str(path)
    match = _REMOTE.match(typed)
    return None if match is None else f"{match.group(1)}://{typed[match.end() :]}"


def shown_name(path: str | Path) -> str:
    """Return a path or an address as messages and files of rejected rows name it: what follows the ? may be a key."""
    typed = str(path)
    return printable(typed.partition("?")[0] if typed.startswith(("http:/", "https:/")) else typed)


class CopiedFolder:
    """A temporary folder that is deleted when nothing refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="recsys-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def fetch(url: str) -> DiskFile | CopiedFolder:
    """Copy a file, or all files below a folder of an object store, to the disk.

    Returns:
        The open file, which has no name any more; or the folder, which is deleted when it is no longer referred to.

    Raises:
        InputError: there is nothing, it may not be read, it is cut short, or it changed meanwhile.
    """
    name = shown_name(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{name} is no address ({error}): correct it") from error
    scheme = parts.scheme
    if "@" in parts.netloc and scheme in ("http", "https"):
        raise InputError(
            f"{scheme}://…@{parts.hostname} has a name and a password in it: download the file with a program that "
            "signs in, and load it from the disk or from standard input"
        )
    if scheme in ("http", "https"):
        return copied(name, lambda out: download(url, name, out))
    with translate_store_errors(name, scheme):
        store, path = open_store(url, scheme)
        info = store.get_file_info(path.rstrip("/"))
        if info.is_file:
            check_space(name, info.size)

            def write(out: Any) -> None:
                with translate_store_errors(name, scheme):  # before those of the disk are translated
                    copy_object(store, info, name, out)

            return copied(name, write)
        from pyarrow.fs import FileSelector

        found = (
            []
            if not path
            else store.get_file_info(FileSelector(path.rstrip("/"), recursive=True, allow_not_found=True))
        )
    files = sorted((each for each in found if each.is_file), key=lambda each: each.path)
    if not files:
        raise InputError(f"{name} does not exist: expected a file or folder of ratings; check the address")
    if len(files) > MAX_REMOTE_FILES:
        raise InputError(
            f"{name} holds {len(files):,} files: expected at most {MAX_REMOTE_FILES:,}; name a folder below it"
        )
    check_space(name, sum(each.size for each in files))
    folder = CopiedFolder()
    with translate_store_errors(name, scheme):
        for each in files:
            inside = PurePosixPath(each.path).relative_to(path.rstrip("/"))
            if ".." in inside.parts:
                raise InputError(f"{name} holds {printable(each.path)}: expected no name of the form ..; rename it")
            target = folder.path / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                copy_object(store, each, name, out)
    return folder


def check_space(name: str, n_bytes: int | None) -> None:
    """Check that there is space for a copy.

    Raises:
        InputError: there is not.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if n_bytes is not None and n_bytes > free:
        raise InputError(
            f"{name} has {n_bytes:,} bytes, and {folder} has space for {free:,}: name a folder on a larger disk with "
            "TMPDIR, or load the source in parts"
        )


def no_space(name: str) -> InputError:
    """Return the error of a copy that filled the disk."""
    return InputError(
        f"{name} does not fit into {tempfile.gettempdir()}, so nothing was loaded: name a folder on a larger disk with "
        "TMPDIR, or load the source in parts"
    )


def is_disk_full(error: OSError) -> bool:
    """Return whether an error says that the disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def copied(name: str, write: Any) -> DiskFile:
    """Return what a function writes to a file that has no name any more."""
    with translate_errors(name):
        descriptor, path = tempfile.mkstemp(prefix="recsys-")
        try:
            with os.fdopen(descriptor, "wb") as out:
                write(out)
            return DiskFile(Path(path), name)
        except OSError as error:
            if is_disk_full(error):
                raise no_space(name) from error
            raise
        finally:
            os.unlink(path)  # the open descriptor keeps the content


def open_store(url: str, scheme: str) -> tuple[Any, str]:
    """Return the client of an object store, and the path in it."""
    from pyarrow import fs

    parts = urlsplit(url)
    path = unquote(f"{parts.netloc}{parts.path}")
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        at = urlsplit(endpoint)
        return (
            fs.S3FileSystem(
                endpoint_override=at.netloc or None,
                scheme=at.scheme or "https",
                region=os.environ.get("AWS_REGION")
                or os.environ.get("AWS_DEFAULT_REGION")
                or ("us-east-1" if endpoint else None),
                request_timeout=SECONDS,
                connect_timeout=10,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
            ),
            path,
        )
    if scheme == "gs":
        from datetime import timedelta

        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=SECONDS)), path
    return fs.AzureFileSystem(
        account_name=os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""),
        account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or None,
    ), path


def copy_object(store: Any, info: Any, name: str, out: Any) -> None:
    """Copy one object of a store.

    Raises:
        InputError: it is shorter than the store says, or was replaced meanwhile.
    """
    with store.open_input_stream(info.path, compression=None) as stream:
        shutil.copyfileobj(stream, out, _CHUNK_BYTES)
    now = store.get_file_info(info.path)
    if (now.size, now.mtime_ns) != (info.size, info.mtime_ns):
        raise InputError(
            f"{name} changed while it was read, so nothing was loaded: wait until its writer has finished, and load it "
            "again"
        )
    check_whole(name, out.tell(), info.size)


def download(url: str, name: str, out: Any) -> None:
    """Copy what a web server answers.

    Raises:
        InputError: it refuses, does not answer in time, or its answer is cut short.
    """
    # A browser takes letters such as é and blanks in an address, and Python does not.
    request = urllib.request.Request(
        quote(url, safe=_KEPT_IN_URLS), headers={"Accept-Encoding": "identity", "User-Agent": "recsys"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            length = answer.length
            check_space(name, length)
            shutil.copyfileobj(answer, out, _CHUNK_BYTES)
        check_whole(name, out.tell(), length)
    except urllib.error.HTTPError as error:
        fix = {401: "this address needs a key", 403: "this address may not be read", 404: "check the address"}
        reason = fix.get(error.code, "try again later, or download it first")
        raise InputError(f"{name} cannot be read: the server answered {error.code} {error.reason}; {reason}") from error
    except (http.client.IncompleteRead, ConnectionError) as error:
        raise InputError(f"{name} was cut short while it was read, so nothing was loaded: try again") from error
    except http.client.HTTPException as error:
        reason = printable(str(error)[:80]) or type(error).__name__
        raise InputError(f"{name} cannot be read as HTTP ({reason}): check the address and its port") from error
    except (TimeoutError, socket.gaierror, urllib.error.URLError) as error:
        reason = str(getattr(error, "reason", error))
        raise InputError(f"{name} does not answer ({printable(reason)}): check the address and the network") from error


def check_whole(name: str, n_read: int, n_bytes: int | None) -> None:
    """Check that all bytes came.

    Raises:
        InputError: there are fewer.
    """
    if n_bytes is not None and n_read != n_bytes:
        raise InputError(
            f"{name} was cut short while it was read ({n_read:,} of {n_bytes:,} bytes), so nothing was loaded: "
            "try again"
        )


@contextmanager
def translate_store_errors(name: str, scheme: str) -> Iterator[None]:
    """Turn errors of an object store into an `InputError` that names the fix."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{name} cannot be read: this build of pyarrow has no client of {scheme}://; install the one of PyPI (pip "
            "install --force-reinstall pyarrow), or copy the files to the disk first"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name} does not exist: expected a file or folder of ratings; check the address") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise no_space(name) from error
        text = str(error)
        reason = printable(text.splitlines()[0][:200]) if text else type(error).__name__
        if re.search(
            r"ACCESS_DENIED|FORBIDDEN|\b403\b|\b401\b|credential|Credential|INVALID_ACCESS_KEY|SIGNATURE", text
        ):
            raise InputError(f"{name} may not be read ({reason}): {CREDENTIALS[scheme]}") from error
        raise InputError(
            f"{name} cannot be read ({reason}): check the address and the network, and try again"
        ) from error
