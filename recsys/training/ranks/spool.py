"""Ratings on the disk of the rank that trains on them: from batches in any order to buckets of whole users.

A user belongs to one of `Layout.n_lanes` lanes and to one of `n_slots` buckets of the lane, both by a hash of the id. A
rank has some lanes. Each rank reads its part of the input once and sends every row to the rank of its user, which
appends it to the file of the bucket. Then the buckets are sorted one by one. So memory is bounded by a bucket, a batch
and the ids; and what a bucket holds, in which order, does not depend on the number of ranks or the order of the input.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.encoding import IdEncoder
from recsys.data.keyed import hash_ids, mix
from recsys.data.rows import RatingBatch
from recsys.errors import RecsysError, TrainingError
from recsys.training.ranks.group import Group

FLUSH_ROWS = 1 << 21
"""Rows that are kept in memory before they are appended to the files of their buckets."""

_ROW = np.dtype([("user", "<i4"), ("rating", "<f4"), ("item", "<i8"), ("at", "<i8")])


@dataclass(frozen=True, slots=True)
class Layout:
    """How users and items are divided over lanes, and lanes over ranks.

    Attributes:
        n_lanes: parts that users and items are divided into; the largest number of ranks.
        n_slots: buckets of each lane.
        size: number of ranks.
    """

    n_lanes: int
    n_slots: int
    size: int

    def lanes_of(self, rank: int) -> range:
        """Return the lanes of a rank."""
        return range(*(-(-each * self.n_lanes // self.size) for each in (rank, rank + 1)))

    def rank_of(self, lane: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rank of each lane."""
        return lane * self.size // self.n_lanes

    def place(self, hashed: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lane and the slot of users, by the hashes of their ids."""
        lanes, slots = np.uint64(self.n_lanes), np.uint64(self.n_slots)
        return (hashed % lanes).astype(np.int64), (hashed // lanes % slots).astype(np.int64)

    def item_bounds(self, n_items: int) -> NDArray[np.int64]:
        """Return the first item of each lane, and the end: (n_lanes + 1,)."""
        return np.arange(self.n_lanes + 1, dtype=np.int64) * n_items // self.n_lanes

    def rank_bounds(self, n_items: int) -> NDArray[np.int64]:
        """Return the first item of each rank, and the end: (size + 1,)."""
        firsts = [self.lanes_of(rank).start for rank in range(self.size)]
        return self.item_bounds(n_items)[[*firsts, self.n_lanes]]


def place_hash(ids: list[str]) -> NDArray[np.uint64]:
    """Return a hash of each id that every rank computes alike, many times faster than `hash_ids`: (n,)."""
    if not ids:
        return np.empty(0, np.uint64)
    hashed: NDArray[np.uint64] = mix(pd.util.hash_array(np.array(ids, object), categorize=False))
    return hashed


@dataclass(frozen=True, slots=True)
class Spooled:
    """The rows of this rank's users in the files of their buckets, unsorted.

    Attributes:
        folder: holds a file for each bucket that has rows.
        layout: of the buckets.
        user_ids: external ids of this rank's users, by their code.
        user_lane, user_slot: (n_users,) their bucket.
        item_ids: external ids of all items, by their index; the same on every rank.
        item_hash: (n_items,) `hash_ids` of them, ascending.
        item_idx_of: for each rank, the index of each of its codes of items.
    """

    folder: Path
    layout: Layout
    user_ids: list[str]
    user_lane: NDArray[np.int64]
    user_slot: NDArray[np.int64]
    item_ids: list[str]
    item_hash: NDArray[np.uint64]
    item_idx_of: list[NDArray[np.int64]]

    def read(self, lane: int, slot: int) -> Ratings:
        """Return the ratings of a bucket: the latest of each pair, by user and item, the users in the order of a hash.

        `user_keys` are the codes of the users.
        """
        path = bucket_file(self.folder, lane, slot)
        rows = np.fromfile(path, _ROW) if path.exists() else np.empty(0, _ROW)
        codes, user_idx = np.unique(rows["user"], return_inverse=True)
        hashed = hash_ids([self.user_ids[code] for code in codes.tolist()])
        by_hash = np.argsort(hashed, kind="stable")
        place = np.empty(len(codes), np.int64)
        place[by_hash] = np.arange(len(codes))
        user_idx = place[user_idx]
        code, sender = np.divmod(rows["item"], self.layout.size)
        item_idx = np.empty(len(rows), np.int64)
        for rank, idx in enumerate(self.item_idx_of):
            mine = sender == rank
            item_idx[mine] = idx[code[mine]]
        # Of equal times the higher rating wins: the order of the input is not known any more.
        order = np.lexsort((rows["rating"], rows["at"], item_idx, user_idx))
        user_idx, item_idx = user_idx[order], item_idx[order]
        latest = np.ones(len(rows), bool)
        latest[:-1] = (np.diff(user_idx) != 0) | (np.diff(item_idx) != 0)
        rows = rows[order][latest]
        return Ratings(
            user_idx=user_idx[latest].astype(np.int32),
            item_idx=item_idx[latest].astype(np.int32),
            rating=rows["rating"].copy(),
            rated_at=rows["at"].copy(),
            user_keys=codes[by_hash].astype(np.int64),
            item_keys=np.arange(len(self.item_ids), dtype=np.int64),
            user_hash=hashed[by_hash],
            item_hash=self.item_hash,
        )

    def discard(self, lane: int, slot: int) -> None:
        """Delete the file of a bucket."""
        bucket_file(self.folder, lane, slot).unlink(missing_ok=True)


def bucket_file(folder: Path, lane: int, slot: int) -> Path:
    """Return the file of the rows of a bucket."""
    return folder / f"{lane:05d}-{slot:05d}.rows"


def spool(group: Group, batches: Iterator[RatingBatch], layout: Layout, folder: Path) -> Spooled:
    """Read this rank's part of the input, and keep the rows of this rank's users on the disk.

    Args:
        batches: of this rank; other ranks may have more or fewer.
        folder: empty.

    Raises:
        RecsysError: reading failed on a rank, or a disk is full.
    """
    users, items = IdEncoder(), IdEncoder()
    lane, slot = np.empty(0, np.int64), np.empty(0, np.int64)
    held: list[NDArray[np.void]] = []
    n_held = 0
    more = True

    def flush() -> None:
        nonlocal held, n_held
        if not held:
            return
        rows = np.concatenate(held)
        held, n_held = [], 0
        bucket = lane[rows["user"]] * layout.n_slots + slot[rows["user"]]
        order = np.argsort(bucket, kind="stable")
        rows, bucket = rows[order], bucket[order]
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            path = bucket_file(folder, *divmod(int(bucket[first]), layout.n_slots))
            with path.open("ab") as file:
                rows[first:last].tofile(file)

    while more:
        failure: RecsysError | None = None
        sent = [b""] * group.size
        try:
            batch = next(batches, None)
            if batch is not None:
                sent = split_batch(batch, items, layout)
        except RecsysError as error:
            failure, batch = error, None
        states = group.exchange_counts(np.full(group.size, 2 if failure else int(batch is not None)))
        if (states == 2).any() or failure:
            group.raise_first(failure)
        more = bool((states == 1).any() or batch is not None)
        for sender, packed in enumerate(group.exchange_bytes(sent) if more else ()):
            if not packed:
                continue
            table = pa.ipc.open_stream(packed).read_all()
            ids = table["user"].combine_chunks()
            n_known = len(users)
            code = users.encode(ids.dictionary)[ids.indices.to_numpy()]
            if len(users) > n_known:
                new = list(users.ids_from(n_known))
                new_lane, new_slot = layout.place(place_hash(new))
                lane, slot = np.concatenate([lane, new_lane]), np.concatenate([slot, new_slot])
            rows = np.empty(table.num_rows, _ROW)
            rows["user"], rows["rating"] = code, table["rating"].to_numpy()
            rows["item"] = table["item"].to_numpy().astype(np.int64) * layout.size + sender
            rows["at"] = table["at"].to_numpy()
            held.append(rows)
            n_held += len(rows)
        failure = None
        if n_held >= FLUSH_ROWS or not more:
            try:
                flush()
            except OSError as error:
                failure = TrainingError(
                    f"ratings cannot be written to {folder} ({error.strerror}): free space, or name another folder "
                    "with --work-dir"
                )
        if not more:
            group.raise_first(failure)
        elif failure:
            raise failure
    item_ids = group.gather_objects(items.ids)
    distinct = list(dict.fromkeys(each for ids in item_ids for each in ids))
    hashed = hash_ids(distinct)
    order = np.array(sorted(range(len(distinct)), key=lambda at: (hashed[at], distinct[at])), np.int64)
    idx = {distinct[at]: number for number, at in enumerate(order.tolist())}
    return Spooled(
        folder,
        layout,
        users.ids,
        lane,
        slot,
        list(idx),
        hashed[order],
        [np.fromiter(map(idx.__getitem__, ids), np.int64, len(ids)) for ids in item_ids],
    )


def split_batch(batch: RatingBatch, items: IdEncoder, layout: Layout) -> list[bytes]:
    """Return the rows of a batch for each rank, packed by Arrow: user, code of the item, rating and time."""
    users = batch.user_ids.dictionary_encode()
    code = users.indices.to_numpy()
    item = items.encode(batch.item_ids)
    ids = users.dictionary.cast(pa.string())
    rank_of_user = layout.rank_of(layout.place(place_hash(ids.to_pylist()))[0])
    rank = rank_of_user[code]
    packed = []
    for each in range(layout.size):
        rows, mine = np.flatnonzero(rank == each), np.flatnonzero(rank_of_user == each)
        if not len(rows):
            packed.append(b"")
            continue
        new_code = np.zeros(len(ids), np.int32)
        new_code[mine] = np.arange(len(mine))
        table = pa.table(
            {
                "user": pa.DictionaryArray.from_arrays(new_code[code[rows]], ids.take(pa.array(mine))),
                "item": item[rows],
                "rating": batch.rating[rows].astype(np.float32),
                "at": batch.rated_at[rows],
            }
        )
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        packed.append(sink.getvalue())
    return packed
