"""Random users, items, keys and concurrent writers against plain Python: no list holds what it must not.

Each step sends some writes at once, to two servers. Their answers must be those of some order of them, one after
another, and what the database then has of the users must be what that order leaves. Lists of the server that took all
of them must be right at once, those of the other server within a second.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count, permutations
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine

from recsys.database.engine import reading
from recsys.database.keys import ApiKey, create_key, hash_of, revoke_key, rotate_key
from recsys.database.models import live_numbers, publish
from recsys.database.tokens import sign
from tests.api.asking import eventually
from tests.api.conftest import Many, add_many, serving, url_of

SECONDS = 1.5
"""A second, and some for a machine that has other things to do."""
N_PLACES = 12
"""Items that are rated and hidden: few, so that requests meet."""


class Write(NamedTuple):
    """One request that writes.

    Attributes:
        kind: `rate`, `view`, `take back`, `erase`, `hide` or `show`.
        user: 0 and 1 are in the model, 2 and 3 are not.
        place: of the item.
        value: the rating, or what sets one view apart from another.
    """

    kind: str
    user: int
    place: int
    value: int


@dataclass
class Person:
    """What the database has of a user.

    Attributes:
        was_erased: views, whose times lie in the past, stay away until the next rating.
        taken_back: places whose views stay away until the next rating of them.
    """

    exists: bool = False
    rated: dict[int, float] = field(default_factory=dict)
    views: dict[int, set[int]] = field(default_factory=dict)
    was_erased: bool = False
    taken_back: set[int] = field(default_factory=set)

    @property
    def seen(self) -> set[int]:
        return self.rated.keys() | self.views.keys()

    def rows(self) -> set[tuple[int, float | None, float | None]]:
        """Place, rating and weight of each row that GET /v1/users/{user_id}/ratings has."""
        return {(place, rating, None) for place, rating in self.rated.items()} | {
            (place, None, float(len(times))) for place, times in self.views.items()
        }


@dataclass
class Oracle:
    people: list[Person]
    hidden: set[int]

    def do(self, write: Write) -> tuple[int, int]:
        """Do a write; return the status of its answer, and for an erasure the number of rows in its receipt."""
        person = self.people[write.user]
        if write.kind in ("hide", "show"):
            (self.hidden.add if write.kind == "hide" else self.hidden.discard)(write.place)
        elif write.kind == "rate":
            person.exists = True
            person.rated[write.place] = float(write.value)
            person.was_erased = False
            person.taken_back.discard(write.place)
        elif write.kind == "view":
            if person.was_erased or write.place in person.taken_back:
                return 200, 0
            person.exists = True
            person.views.setdefault(write.place, set()).add(write.value)
        elif write.kind == "take back":
            if write.place not in person.seen:
                return 404, 0
            person.rated.pop(write.place, None)
            person.views.pop(write.place, None)
            person.taken_back.add(write.place)
            return 204, 0
        else:
            if not person.exists:
                return 404, 0
            n = len(person.rows())
            self.people[write.user] = Person(was_erased=True)
            return 200, n
        return 200, 0


class World:
    """Two servers over one database, for all runs of a machine; each run has users of its own."""

    def __init__(self, engine: Engine, data: Many, clients: list[httpx.Client]) -> None:
        self.engine, self.data, self.clients = engine, data, clients
        self.runs, self.hidden = count(), set(np.flatnonzero(data.hidden).tolist())
        self.admin, self.admin_text = create_key(engine, "ops", ["admin"], actor="test")
        self.threads = ThreadPoolExecutor(8)
        eventually(lambda: all(each.get("/v1/popular").status_code == 401 for each in clients))
        for client in clients:
            client.headers["authorization"] = f"Bearer {self.admin_text}"


class Trust(RuleBasedStateMachine):
    """One run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, run = world, next(world.runs)
        data = world.data
        known = [(2 * run + n) % len(data.user_ids) for n in range(2)]
        for name in (data.user_ids[each] for each in known):
            if run >= len(data.user_ids) // 2:  # all were used: this one is no longer as the model knows it
                world.clients[0].delete(f"/v1/users/{quote(name, '')}")
        is_new = run < len(data.user_ids) // 2
        self.names = [data.user_ids[each] for each in known] + [f"run {run}/{n}" for n in range(2)]
        rows = [self.rows_of(0, name) for name in self.names]
        self.oracle = Oracle(
            [
                Person(
                    is_new and n < 2,
                    {place: value or 0.0 for place, value, _ in rows[n]},
                    was_erased=not is_new and n < 2,
                )
                for n in range(4)
            ],
            world.hidden,
        )
        assert not is_new or [self.oracle.people[n].rated.keys() for n in range(2)] == [data.rated[n] for n in known]
        self.keys: list[tuple[ApiKey, str, bool]] = []
        self.named = f"run {run}"

    # What is sent and read

    def send(self, server: int, write: Write) -> tuple[int, int]:
        client, name = self.world.clients[server], quote(self.names[write.user], "")
        item_id = self.world.data.item_ids[write.place]
        row: dict[str, Any] = {"user_id": self.names[write.user], "item_id": item_id}
        if write.kind in ("hide", "show"):
            answer = client.put(f"/v1/items/{quote(item_id, '')}", json={"hidden": write.kind == "hide"})
        elif write.kind == "rate":
            answer = client.post("/v1/ratings", json={"ratings": [{**row, "rating": write.value}]})
        elif write.kind == "view":
            row |= {"event": "view", "rated_at": 1_700_000_000 + write.value}
            answer = client.post("/v1/ratings", json={"ratings": [row]})
        elif write.kind == "take back":
            answer = client.delete(f"/v1/users/{name}/ratings/{quote(item_id, '')}")
        else:
            answer = client.delete(f"/v1/users/{name}")
            return answer.status_code, answer.json()["ratings"] if answer.status_code == 200 else 0
        return answer.status_code, 0

    def rows_of(self, server: int, name: str) -> set[tuple[int, float | None, float | None]]:
        answer = self.world.clients[server].get(f"/v1/users/{quote(name, '')}/ratings?limit=1000")
        assert answer.status_code == 200
        place_of = {item_id: place for place, item_id in enumerate(self.world.data.item_ids)}
        return {(place_of[row["item_id"]], row["rating"], row.get("weight")) for row in answer.json()["ratings"]}

    def listed(self, server: int, url: str, **query: Any) -> list[int]:
        answer = self.world.clients[server].get(url, params=query)
        assert answer.status_code == 200, answer.text
        place_of = {item_id: place for place, item_id in enumerate(self.world.data.item_ids)}
        return [place_of[each["item_id"]] for each in answer.json()["items"]]

    def lists_of(self, server: int, user: int) -> list[int]:
        return self.listed(server, f"/v1/users/{quote(self.names[user], '')}/recommendations", n=1000)

    def allowed(self, user: int | None) -> set[int]:
        everything = set(range(len(self.world.data.item_ids))) - self.oracle.hidden
        return everything if user is None else everything - self.oracle.people[user].seen

    # Steps

    @rule(
        writes=st.lists(
            st.builds(
                Write,
                st.sampled_from(["rate", "rate", "rate", "view", "take back", "take back", "erase", "hide", "show"]),
                st.integers(0, 3),
                st.integers(0, N_PLACES - 1),
                st.integers(1, 5),
            ),
            min_size=1,
            max_size=4,
            unique_by=lambda write: write.place if write.kind in ("hide", "show") else write,
        ),
        servers=st.lists(st.integers(0, 1), min_size=4, max_size=4) | st.sampled_from([[0] * 4, [1] * 4]),
    )
    def write_together(self, writes: list[Write], servers: list[int]) -> None:
        before = deepcopy(self.oracle)
        touched = {write.user for write in writes if write.kind not in ("hide", "show")}
        changed = {write.place for write in writes}
        reading = [self.world.threads.submit(self.lists_of, n, writes[0].user) for n in range(2)]
        sent = [self.world.threads.submit(self.send, *each) for each in zip(servers, writes, strict=False)]
        answers = [each.result() for each in sent]
        for early in (each.result() for each in reading):  # what no write touches is left out all the time
            assert not set(early) & (before.people[writes[0].user].seen | before.hidden) - changed or (
                "erase" in {write.kind for write in writes if write.user == writes[0].user}
            )
        found = {user: self.rows_of(servers[0], self.names[user]) for user in touched}
        self.oracle = explained(before, writes, answers, found)
        self.world.hidden = self.oracle.hidden
        used = set(servers[: len(writes)])
        for user in touched | {writes[0].user}:
            for server in (0, 1):
                if used == {server}:
                    assert set(self.lists_of(server, user)) == self.allowed(user), (server, user)
                else:
                    eventually(lambda: set(self.lists_of(server, user)) == self.allowed(user), SECONDS)  # noqa: B023

    @rule(user=st.integers(0, 3), server=st.integers(0, 1), n=st.integers(1, 40), place=st.integers(0, N_PLACES - 1))
    def ask(self, user: int, server: int, n: int, place: int) -> None:
        ids, name = self.world.data.item_ids, quote(self.names[user], "")
        excluded = {(place + step) % N_PLACES for step in (0, 3)}
        chosen = {"n": n, "exclude": [ids[each] for each in excluded]}
        url, visible = f"/v1/users/{name}/recommendations", self.allowed(None)
        unseen = self.allowed(user)
        eventually(lambda: set(self.listed(server, "/v1/popular", by="count", n=1000)) == visible, SECONDS)
        eventually(lambda: set(self.lists_of(server, user)) == unseen, SECONDS)
        for found, fitting in (
            (self.listed(server, url, **chosen), unseen - excluded),
            (self.listed(server, url, **chosen, exclude_seen=False), visible - excluded),
            (self.listed(server, f"/v1/items/{quote(ids[place], '')}/similar", n=n, exclude_seen_by=self.names[user]),
             unseen - {place}),
        ):  # fmt: skip
            assert len(found) == len(set(found)) == min(n, len(fitting))
            assert set(found) <= fitting
        body = {"users": [{"user_id": self.names[user]}, {}], "n": n, "exclude": chosen["exclude"]}
        for one, fitting in zip(
            self.world.clients[server].post("/v1/recommendations", json=body).json()["lists"],
            (unseen - excluded, visible - excluded),
            strict=True,
        ):
            assert {ids.index(each["item_id"]) for each in one["items"]} <= fitting
            assert len(one["items"]) == min(n, len(fitting))

    @rule()
    def publish_again(self) -> None:
        with reading(self.world.engine) as connection:
            number = live_numbers(connection)["ranking"]
        publish(self.world.engine, number, "again")

    @rule(scopes=st.sampled_from([("read",), ("write",), ("lists:read",), ("ratings:write", "ratings:read")]))
    def new_key(self, scopes: tuple[Any, ...]) -> None:
        key, text = create_key(self.world.engine, f"{self.named}, {len(self.keys)}", scopes, actor="test")
        self.keys.append((key, text, True))

    @precondition(lambda self: any(is_active for *_, is_active in self.keys))
    @rule(rotate=st.booleans())
    def end_key(self, rotate: bool) -> None:
        place = next(n for n, (*_, is_active) in enumerate(self.keys) if is_active)
        key, text, _ = self.keys[place]
        self.keys[place] = key, text, False
        if rotate:
            self.keys.append((*rotate_key(self.world.engine, str(key.number), actor="test", seconds=0), True))
        else:
            revoke_key(self.world.engine, str(key.number), actor="test")

    @precondition(lambda self: self.keys)
    @rule(choice=st.integers(0, 100), user=st.integers(0, 3), server=st.integers(0, 1))
    def knock(self, choice: int, user: int, server: int) -> None:
        """With a key, with a token of the user and with one of another user."""
        key, text, is_active = self.keys[choice % len(self.keys)]
        client, name = self.world.clients[server], quote(self.names[user], "")
        own, other = (sign(key.number, hash_of(text), self.names[each % 4], 60) for each in (user, user + 1))
        wanted = [("GET", f"/v1/users/{name}/recommendations", "lists:read", {"read", "lists:read"})]
        wanted += [("GET", f"/v1/users/{name}/ratings", "ratings:read", {"read", "ratings:read"})]
        wanted += [("POST", "/v1/ratings", "ratings:write", {"write", "ratings:write"})]
        wanted += [("DELETE", f"/v1/users/{name}", "users:erase", set())]
        for method, url, _, enough in wanted:
            may = bool(enough & set(key.scopes))
            for sent, passes in ((text, may), (own, may), (other, may and url == "/v1/ratings")):
                # A body that is no JSON: who may pass gets 415, and nothing is written.
                expected = ((200 if method == "GET" else 415) if passes else 403) if is_active else 401
                headers = {"authorization": f"Bearer {sent}"}
                eventually(
                    lambda: client.request(method, url, headers=headers).status_code == expected,  # noqa: B023
                    SECONDS,
                )

    @invariant()
    def nothing_is_degraded(self) -> None:
        assert all(each.get("/health/ready").json()["status"] == "ready" for each in self.world.clients)


def explained(
    before: Oracle, writes: Sequence[Write], answers: Sequence[tuple[int, int]], found: dict[int, Any]
) -> Oracle:
    """What some order of the writes leaves, which answers as they were answered and leaves what was found."""
    for order in permutations(range(len(writes))):
        oracle = deepcopy(before)
        answered = {n: oracle.do(writes[n]) for n in order}
        if [answered[n] for n in range(len(writes))] == list(answers) and all(
            oracle.people[user].rows() == rows for user, rows in found.items()
        ):
            return oracle
    note(f"{writes} were answered {answers} and left {found}")
    raise AssertionError("no order of these requests explains their answers and what they left")


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    data = add_many(engine)
    with (
        serving(url_of(engine), refresh_seconds=0.02) as first,
        serving(url_of(engine), refresh_seconds=0.02) as second,
    ):
        made = World(engine, data, [first, second])
        with made.threads:
            yield made


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("n_runs", "n_steps"), [(5, 8), pytest.param(150, 40, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_lists_ratings_and_keys_are_as_a_plain_program_has_them(world: World, n_runs: int, n_steps: int) -> None:
    run_state_machine_as_test(
        lambda: Trust(world),
        settings=settings(
            max_examples=n_runs,
            stateful_step_count=n_steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
