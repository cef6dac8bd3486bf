"""Clients of a soak: each reads any user's lists and writes its own users' ratings, and checks every answer.

What must hold is kept in plain Python (`Oracle`). A write counts for a later request on its own connection at once,
since that one process answers it, and for all others after `OTHER_SECONDS`.
"""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from benchmarks.load import content_length
from recsys.database.keys import hash_of
from recsys.database.tokens import sign

OTHER_SECONDS = 3.0
"""A write is respected by other processes within a second; the rest is for a machine that has other things to do."""
ON_TIME_SECONDS = 1.0
"""What the service promises; lists that respect a write later than this are counted as late."""
ANSWER_SECONDS = 60.0
MAX_RATED = 60
"""Most ratings that a client adds to a user, so that no list runs short."""


class Write(NamedTuple):
    """When a write was acknowledged, on which connection, and the rating it wrote."""

    at: float
    connection: int
    rating: float = 0.0

    def must_hold(self, connection: int, started: float, slack: float = OTHER_SECONDS) -> bool:
        """Return whether a request that was sent at a time over a connection must respect the write."""
        return self.at + (0.0 if connection == self.connection else slack) < started


@dataclass
class Oracle:
    """What was acknowledged, and what was counted.

    Attributes:
        rated: user → item → the write. A rating that is taken back leaves before the request is sent.
        hidden: item → the write; it leaves before the request that shows the item is sent.
        erased: users who were erased and have not rated since.
        faults: answers that contradict this, in words.
        statuses: of all answers, `lost` where the connection ended without one.
        late: lists that respected a write of another process later than promised.
    """

    item_ids: list[str]
    rated: dict[str, dict[str, Write]]
    hidden: dict[str, Write] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    late: int = 0
    kills: list[float] = field(default_factory=list)
    """When a process was killed: a connection that ends soon after is no fault."""

    def check_list(self, items: list[str], seen_by: str | None, connection: int, started: float, what: str) -> None:
        """Check that a list has no item twice, none that is hidden and none that its user has rated."""
        if len(set(items)) != len(items):
            self.faults.append(f"{what}: an item is repeated")
        rated = self.rated.get(seen_by, {}) if seen_by is not None else {}
        for kind, writes in (("seen", rated), ("hidden", self.hidden)):
            for item_id in items:
                write = writes.get(item_id)
                if write is None:
                    continue
                if write.must_hold(connection, started):
                    self.faults.append(f"{what}: item {item_id} is {kind}, {started - write.at:.1f} s after")
                elif write.must_hold(connection, started, ON_TIME_SECONDS):
                    self.late += 1


class Keys:
    """The keys that the clients send; a thread rotates them."""

    def __init__(self, number: int, text: str, reader: str) -> None:
        self.number, self.text, self.reader = number, text, reader
        self.revoked: tuple[str, float] | None = None
        self.headers = f"Authorization: Bearer {text}\r\n"

    def rotate(self, number: int, text: str) -> None:
        """Send another key from now on."""
        self.number, self.text, self.headers = number, text, f"Authorization: Bearer {text}\r\n"

    def token(self, user_id: str) -> str:
        """Return the headers with a token of a user."""
        return f"Authorization: Bearer {sign(self.number, hash_of(self.text), user_id, 600)}\r\n"


class LostError(Exception):
    """The connection ended before the answer."""


class UnexpectedError(Exception):
    """An answer with another status than it must have."""


class Connection:
    """One connection at a time to the service; it is opened again when it is lost."""

    numbers = 0

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.number = 0

    async def ask(self, method: str, path: str, headers: str, content: object = None) -> tuple[int, bytes]:
        """Send a request and return the status and the body of its answer.

        Raises:
            LostError: the connection ended first.
        """
        body = b"" if content is None else json.dumps(content).encode()
        typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{typed}\r\n".encode()
        try:
            if self._reader is None or self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                Connection.numbers += 1
                self.number = Connection.numbers
            self._writer.write(head + body)
            answer = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), ANSWER_SECONDS)
            length = content_length(bytearray(answer)) or 0
            return int(answer[9:12]), await self._reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            raise LostError(str(error) or f"none within {ANSWER_SECONDS:.0f} s") from error

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Client:
    """One client: draws requests, sends them over its own connection, and checks the answers.

    Args:
        users: whose ratings this client alone writes.
        items: that this client alone hides and shows.
    """

    def __init__(self, oracle: Oracle, keys: Keys, port: int, users: list[str], items: list[str], seed: int) -> None:
        self._oracle, self._keys, self._users, self._items = oracle, keys, users, items
        self._random = np.random.default_rng(seed)
        self._connection = Connection(port)
        self._everybody = list(oracle.rated)
        self._kinds, self._chances = zip(*WISHES, strict=True)

    async def run(self, seconds: float, interval: float) -> None:
        """Send a request every `interval` seconds, or as fast as they are answered."""
        due = time.monotonic() + self._random.random() * interval
        end = time.monotonic() + seconds
        try:
            while (now := time.monotonic()) < end:
                if due > now:
                    await asyncio.sleep(due - now)
                due = max(due + interval, now - 5)  # no more than 5 s are caught up on
                kind = str(self._random.choice(self._kinds, p=self._chances))
                self._oracle.counts[kind] += 1
                try:
                    await getattr(self, f"_{kind}")()
                except UnexpectedError:  # it is a fault; whether it was done shows
                    for user_id in self._users:
                        await self._read_again(user_id)
        finally:
            self._connection.close()

    async def _send(
        self, what: str, method: str, path: str, content: object = None, *, expected: int = 200, headers: str = ""
    ) -> Any:
        """Send a request until it is answered, and return the body of the answer.

        What was sent before without an answer may have been done, so that 404 is no fault then: the result is `None`.

        Raises:
            UnexpectedError: the status is not the expected one, which is a fault.
        """
        is_again = False
        while True:
            try:
                status, body = await self._connection.ask(method, path, headers or self._keys.headers, content)
            except LostError as error:
                self._oracle.statuses["lost"] += 1
                if not any(0 <= time.monotonic() - at < 10 for at in self._oracle.kills):
                    self._oracle.faults.append(f"{what}: no answer ({error}), and no process was killed")
                is_again = True
                await asyncio.sleep(0.05)
                continue
            self._oracle.statuses[str(status)] += 1
            if status == expected:
                return json.loads(body) if body else {}
            if is_again and status == 404:
                return None
            self._oracle.faults.append(f"{what}: {status} {body[:200].decode(errors='replace')}")
            raise UnexpectedError(what)

    async def _read_again(self, user_id: str) -> None:
        """Take what the service has of a user for true."""
        path = f"/v1/users/{quote(user_id, safe='')}/ratings?limit=1000"
        with suppress(UnexpectedError):
            answer = await self._send("read again", "GET", path)
            self._oracle.rated[user_id] = {
                row["item_id"]: Write(time.monotonic(), self._connection.number, row["rating"])
                for row in answer["ratings"]
            }
            if self._oracle.rated[user_id]:
                self._oracle.erased.discard(user_id)

    def _own(self) -> str:
        return self._users[int(self._random.integers(len(self._users)))]

    def _anybody(self) -> str:
        return self._everybody[int(self._random.integers(len(self._everybody)))]

    def _item(self) -> str:
        return self._oracle.item_ids[int(self._random.integers(len(self._oracle.item_ids)))]

    async def _list(self, user_id: str, headers: str = "") -> None:
        n, excluded = int(self._random.integers(1, 51)), [self._item() for _ in range(3)]
        query = f"n={n}" + "".join(f"&exclude={quote(each, safe='')}" for each in excluded)
        is_plain = self._random.random() < 0.6
        started = time.monotonic()
        path = f"/v1/users/{quote(user_id, safe='')}/recommendations{'' if is_plain else '?' + query}"
        answer = await self._send("list", "GET", path, headers=headers)
        if answer is None:
            return
        items = [each["item_id"] for each in answer["items"]]
        seen_by = None if answer.get("degraded") else user_id  # without the database what was seen is not known
        self._oracle.check_list(items, seen_by, self._connection.number, started, f"list of {user_id}")
        if not is_plain and set(items) & set(excluded):
            self._oracle.faults.append(f"list of {user_id}: an excluded item")
        if len(items) != (10 if is_plain else n):
            self._oracle.faults.append(f"list of {user_id}: {len(items)} items")
        if answer.get("degraded"):
            self._oracle.faults.append(f"list of {user_id}: degraded")

    async def _own_list(self) -> None:
        await self._list(self._own())

    async def _any_list(self) -> None:
        await self._list(self._anybody())

    async def _token_list(self) -> None:
        user_id = self._own()
        await self._list(user_id, self._keys.token(user_id))

    async def _similar(self) -> None:
        user_id, item_id, started = self._own(), self._item(), time.monotonic()
        path = f"/v1/items/{quote(item_id, safe='')}/similar?exclude_seen_by={quote(user_id, safe='')}"
        if (answer := await self._send("similar", "GET", path)) is not None:
            items = [each["item_id"] for each in answer["items"]]
            self._oracle.check_list(items, user_id, self._connection.number, started, f"similar to {item_id}")
            if item_id in items:
                self._oracle.faults.append(f"similar to {item_id}: the item itself")

    async def _popular(self) -> None:
        started = time.monotonic()
        if (answer := await self._send("popular", "GET", "/v1/popular?by=count&n=50")) is not None:
            items = [each["item_id"] for each in answer["items"]]
            self._oracle.check_list(items, None, self._connection.number, started, "popular")

    async def _batch(self) -> None:
        users, started = [self._own(), self._anybody()], time.monotonic()
        content = {"users": [{"user_id": user_id} for user_id in users], "n": 20}
        if (answer := await self._send("batch", "POST", "/v1/recommendations", content)) is not None:
            for user_id, one in zip(users, answer["lists"], strict=True):
                items = [each["item_id"] for each in one["items"]]
                self._oracle.check_list(items, user_id, self._connection.number, started, f"batch, {user_id}")

    async def _rate(self) -> None:
        user_id = self._own()
        rated = self._oracle.rated[user_id]
        n = int(self._random.integers(1, 4))
        new = {self._item(): float(self._random.integers(1, 6)) for _ in range(n)}
        if len(rated) > MAX_RATED:
            new = dict.fromkeys([*rated][:1], 2.0)
        rows = [{"user_id": user_id, "item_id": item_id, "rating": rating} for item_id, rating in new.items()]
        headers = self._keys.token(user_id) if self._random.random() < 0.3 else ""
        if await self._send("rate", "POST", "/v1/ratings", {"ratings": rows}, headers=headers) is not None:
            write = Write(time.monotonic(), self._connection.number)
            rated |= {item_id: write._replace(rating=rating) for item_id, rating in new.items()}
            self._oracle.erased.discard(user_id)

    async def _take_back(self) -> None:
        user_id = self._own()
        rated = self._oracle.rated[user_id]
        if not rated:
            return
        item_id = [*rated][int(self._random.integers(len(rated)))]
        del rated[item_id]
        path = f"/v1/users/{quote(user_id, safe='')}/ratings/{quote(item_id, safe='')}"
        await self._send("take back", "DELETE", path, expected=204)

    async def _ratings(self) -> None:
        user_id = self._own()
        path = f"/v1/users/{quote(user_id, safe='')}/ratings?limit=1000"
        if (answer := await self._send("ratings", "GET", path)) is not None:
            found = {row["item_id"]: row["rating"] for row in answer["ratings"]}
            expected = {item_id: write.rating for item_id, write in self._oracle.rated[user_id].items()}
            if found != expected:
                self._oracle.faults.append(f"ratings of {user_id}: {found} in place of {expected}")

    async def _hide(self) -> None:
        item_id = self._items[int(self._random.integers(len(self._items)))]
        is_hidden = self._oracle.hidden.pop(item_id, None) is not None
        path = f"/v1/items/{quote(item_id, safe='')}"
        if await self._send("hide", "PUT", path, {"hidden": not is_hidden}) is not None and not is_hidden:
            self._oracle.hidden[item_id] = Write(time.monotonic(), self._connection.number)

    async def _erase(self) -> None:
        user_id = self._own()
        rated = self._oracle.rated[user_id]
        if not rated:
            return
        n = len(rated)
        rated.clear()
        answer = await self._send("erase", "DELETE", f"/v1/users/{quote(user_id, safe='')}")
        self._oracle.erased.add(user_id)
        if answer is not None and answer["ratings"] != n:
            self._oracle.faults.append(f"erase {user_id}: {answer['ratings']} ratings in place of {n}")
        answer = await self._send("erased list", "GET", f"/v1/users/{quote(user_id, safe='')}/recommendations")
        if answer is not None and answer["source"] != "popularity":
            self._oracle.faults.append(f"erase {user_id}: a list by {answer['source']} after it")

    async def _refused(self) -> None:
        """Requests that must be refused: no key, a wrong one, a revoked one, one of too few scopes, another's token."""
        own, other = self._own(), self._anybody()
        path = f"/v1/users/{quote(own, safe='')}"
        kind = int(self._random.integers(6))
        if kind == 0:
            await self._send("no key", "GET", f"{path}/recommendations", expected=401, headers="X-None: 1\r\n")
        elif kind == 1:
            wrong = f"Authorization: Bearer recsys_{'x' * 49}\r\n"
            await self._send("wrong key", "GET", f"{path}/recommendations", expected=401, headers=wrong)
        elif kind == 2:
            await self._send("scope", "DELETE", path, expected=403, headers=self._keys.reader)
        elif kind == 3 and own != other:
            token = self._keys.token(other)
            await self._send("other's token", "GET", f"{path}/ratings", expected=403, headers=token)
        elif kind == 4 and self._keys.revoked is not None and time.monotonic() > self._keys.revoked[1] + OTHER_SECONDS:
            revoked = f"Authorization: Bearer {self._keys.revoked[0]}\r\n"
            await self._send("revoked key", "GET", f"{path}/recommendations", expected=401, headers=revoked)
        else:
            await self._send("unknown item", "GET", "/v1/items/none/similar", expected=404)


WISHES = (
    ("own_list", 0.4),
    ("any_list", 0.27),
    ("token_list", 0.05),
    ("similar", 0.08),
    ("popular", 0.05),
    ("batch", 0.02),
    ("ratings", 0.02),
    ("rate", 0.05),
    ("take_back", 0.02),
    ("hide", 0.008),
    ("erase", 0.002),
    ("refused", 0.03),
)
"""What a client sends, and how often."""
