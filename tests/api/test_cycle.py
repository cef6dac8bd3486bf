"""Requests that are begun outside of a task, and answers that are sent in one piece."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from api import cycle
from api.cycle import MAX_LINES, SMALL_BYTES, begin, in_task, line_of
from api.door import DoorProtocol
from tests.api.test_door import Wire

GET = b"GET /v1/popular HTTP/1.1\r\nhost: localhost\r\n\r\n"
LENGTH = (b"content-length", b"3")


class CountingWire(Wire):
    """A transport that notes each piece that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))


def answer_of(messages: list[dict[str, Any]], request: bytes = GET) -> CountingWire:
    """Send messages as the answer to a request."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    loop, wire = asyncio.new_event_loop(), CountingWire()
    protocol = DoorProtocol(uvicorn.Config(app, log_config=None), ServerState(), {}, loop)
    protocol.connection_made(wire)
    protocol.data_received(request)
    loop.run_until_complete(asyncio.sleep(0.01))
    if protocol.timeout_keep_alive_task is not None:
        protocol.timeout_keep_alive_task.cancel()
    loop.close()
    return wire


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def test_head_and_body_are_one_piece() -> None:
    answer = answer_of([start(LENGTH, (b"x-a", b"1")), body(b"abc")])
    assert answer.pieces == [b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-a: 1\r\n\r\nabc"]
    assert not answer.is_closed
    long = b"x" * (SMALL_BYTES + 1)
    answer = answer_of([start((b"content-length", b"%d" % len(long))), body(long)])
    assert [len(piece) for piece in answer.pieces] == [len(answer.pieces[0]), len(long)]


def test_other_shapes_of_answers_are_those_of_http() -> None:
    parts = [start(), body(b"abc", more=True), body(b"", more=True), body(b"de")]
    assert b"".join(answer_of(parts).pieces).partition(b"\r\n\r\n")[2] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert answer_of([start(LENGTH), body(b"")], GET.replace(b"GET", b"HEAD")).pieces[0].endswith(b": 3\r\n\r\n")
    assert answer_of([start(status=304), body(b"")]).pieces == [b"HTTP/1.1 304 Not Modified\r\n\r\n"]
    for answer in (
        answer_of([start(LENGTH, (b"connection", b"close")), body(b"abc")]),
        answer_of([start(LENGTH), body(b"abc")], GET.replace(b"1.1", b"1.0")),
    ):
        assert answer.is_closed
        assert answer.pieces[0].count(b"connection: close") == 1


@pytest.mark.parametrize(
    "messages",
    [
        [body(b"abc")],
        [start((b"a b", b"1")), body(b"")],
        [start((b"x-a", b"1\r\nx-b: 2")), body(b"")],
        [],
    ],
)
def test_answers_that_are_none_are_500(messages: list[dict[str, Any]]) -> None:
    assert b"".join(answer_of(messages).pieces).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize(
    "messages", [[start(LENGTH), body(b"ab")], [start(LENGTH), body(b"abcd")], [start(LENGTH), start(LENGTH)]]
)
def test_answers_that_break_off_close_the_connection(messages: list[dict[str, Any]]) -> None:
    assert answer_of(messages).is_closed


def test_kept_lines_are_bounded_and_have_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[tuple[bytes, bytes], bytes] = {}
    monkeypatch.setattr(cycle, "_lines", kept)
    for n in range(2 * MAX_LINES):
        assert line_of((b"x-a", b"%d" % n)) == b"x-a: %d\r\n" % n
    assert line_of((b"set-cookie", b"secret")) == b"set-cookie: secret\r\n"
    assert 0 < len(kept) <= MAX_LINES
    assert (b"set-cookie", b"secret") not in kept


def test_a_coroutine_goes_on_in_a_task_once_it_waits() -> None:
    seen: list[object] = []

    async def work(waited: "asyncio.Future[int]") -> None:
        seen.append(asyncio.current_task())
        await in_task()
        assert asyncio.current_task() is not None
        await in_task()
        seen.append(await waited)
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            seen.append("late")
        await asyncio.sleep(5)

    async def nothing() -> None:
        seen.append("nothing")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("seen")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waited: asyncio.Future[int] = loop.create_future()
        begun: list[Any] = []
        loop.call_soon(lambda: begun.extend(begin(each) for each in (work(waited), nothing(), failing())))
        await asyncio.sleep(0.01)
        assert begun[1] is None
        task, failed = loop.create_task(begun[0]), loop.create_task(begun[2])
        loop.call_later(0.01, waited.set_result, 7)
        with pytest.raises(ValueError, match="seen"):
            await failed
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [None, "nothing", 7, "late"]
