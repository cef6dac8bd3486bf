"""Training over ranks: ratings from Parquet files or the database → a model version, judged and published.

Every rank runs this. Rank 0 alone writes to the database. It takes the lease of training when the model is trained, so
other jobs can train during the hours before.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from jobs.pipeline import TrainingJob
from jobs.progress import say
from jobs.rank_version import Publication, Trained
from jobs.training_data import choose_config
from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database.changes import current_seq
from recsys.database.engine import reading
from recsys.database.rating_parts import stream_part
from recsys.database.ratings import count_kinds
from recsys.database.tombstones import Buried, read_buried, without_buried
from recsys.errors import InputError, TrainingError
from recsys.files.parquet_folder import ParquetFolder
from recsys.results import Objective, TrainReport
from recsys.settings import Settings
from recsys.training.build import EpochRecord
from recsys.training.config import Config
from recsys.training.ranks.biases import fit_biases
from recsys.training.ranks.checkpoint import RankCheckpoint
from recsys.training.ranks.export import (
    add_implicit_terms,
)
from recsys.training.ranks.group import Group
from recsys.training.ranks.loop import train_ranks
from recsys.training.ranks.partition import Partition, partition
from recsys.training.ranks.spool import Layout, spool

_log = logging.getLogger(__name__)

WINDOW_ROWS = 1_000_000
"""Ratings of all ranks in a window, about."""
FEWEST_SLOTS = 4
"""Windows of an epoch, at least."""
LANES = 16
"""Lanes for up to so many ranks; for more, the next power of two."""


@dataclass(frozen=True, slots=True)
class RankJob:
    """What to train over ranks, and what to do with the version.

    Attributes:
        source: folder of Parquet files; `None`: the database.
        columns: role → column of the files.
        overrides, publish_it, force_reason: as in `TrainingJob`.
        work_dir: where the ratings of a rank are kept while it trains; `None`: the folder for temporary files.
        lanes: parts of users and items, the largest number of ranks; `None`: by their number now.
    """

    objective: Objective
    source: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    publish_it: bool = True
    force_reason: str | None = None
    work_dir: Path | None = None
    lanes: int | None = None

    def as_record(self) -> dict[str, Any]:
        """Return what all ranks must agree on."""
        return {
            "--objective": self.objective,
            "--map": dict(self.columns),
            "settings": dict(self.overrides),
            "--seed": self.seed,
            "--lanes": self.lanes,
        }


@dataclass(frozen=True, slots=True)
class RankSource:
    """The ratings that the ranks read.

    Attributes:
        fingerprint: what all ranks must see alike.
        n_rows: rows of all ranks, about.
        folder: `None`: they are in the database.
    """

    fingerprint: dict[str, Any]
    n_rows: int
    folder: ParquetFolder | None


def train_over_ranks(group: Group, engine: Engine | None, settings: Settings, job: RankJob) -> TrainReport | None:
    """Train over ranks, and store and publish the version. All ranks call it with the same job.

    Args:
        engine: rank 0 needs it, and every rank if the ratings are in the database.

    Returns:
        The report on rank 0, `None` on the others.

    Raises:
        InputError: the files are bad, or the ranks see different ones.
        LockedError: another job held the lease of training for hours.
        TrainingError: there are too few ratings or users, a rank was lost, or training diverged.
    """
    started = time.perf_counter()
    starting = group.starting
    source = starting.agree(lambda: open_input(engine, job))
    refuse_disagreement(starting, {**source.fingerprint, **job.as_record()})
    buried, seq = group.from_rank(0, None if group.rank else read_state(database(engine)))
    n_lanes = job.lanes or max(LANES, 1 << (group.size - 1).bit_length())
    if n_lanes < group.size:
        raise TrainingError(f"--lanes {n_lanes} is below the number of ranks, {group.size}: leave it out, or raise it")
    layout = Layout(n_lanes, max(FEWEST_SLOTS, -(-source.n_rows // WINDOW_ROWS)), group.size)
    with tempfile.TemporaryDirectory(prefix="recsys-ranks-", dir=job.work_dir) as folder:
        if group.rank == 0:
            say(f"{job.objective}: {group.size} ranks read {source.n_rows:,} rows")
        with reading_batches(engine, settings, job, source, group, buried) as batches:
            spooled = spool(group, batches, layout, Path(folder))
        warn_of_rejects(group, source)
        data = partition(group, spooled, job.objective, (settings.rating_min, settings.rating_max))
        config = group.from_rank(0, group.agree(lambda: None if group.rank else config_of(database(engine), job, data)))
        assert config is not None
        say_start(group, job, data, config)
        biases = fit_biases(group, data)
        identity = {
            "ratings": data.fingerprint,
            "settings": config.as_record(),
            "scale": data.scale,
            "seed": job.seed,
            "lanes": n_lanes,
            "buckets": layout.n_slots,
        }
        digest = blake2b(repr(sorted(identity.items())).encode(), digest_size=8).hexdigest()
        checkpoint = RankCheckpoint(
            group, settings.checkpoints.absolute() / f"ranks-{job.objective}-{digest}", identity
        )
        run = train_ranks(
            group,
            data,
            config,
            job.seed,
            biases=biases if job.objective == "rating" else None,
            checkpoint=checkpoint,
            on_epoch=(lambda record: say_epoch(job, config, record)) if group.rank == 0 else None,
        )
        add_implicit_terms(group, data, run.tables)
        to_train = TrainingJob(
            job.objective,
            "dot",
            job.overrides,
            seed=job.seed,
            publish_it=job.publish_it,
            force_reason=job.force_reason,
        )
        trained = Trained(data, config, run, biases, seq)
        report = Publication(group, engine, settings, to_train, trained).finish(started)
        checkpoint.delete()
        return report


def open_input(engine: Engine | None, job: RankJob) -> RankSource:
    """Look at the ratings, without reading them.

    Raises:
        InputError: the folder or one of its files is bad.
        TrainingError: the database has no ratings.
    """
    if job.source is not None:
        folder = ParquetFolder.open(job.source)
        seen = {"files": len(folder.files), "rows": folder.n_rows, "names, sizes and columns": folder.fingerprint()}
        return RankSource(seen, folder.n_rows, folder)
    with reading(database(engine)) as connection:
        n_ratings, n_events = count_kinds(connection)
        if not n_ratings:
            raise TrainingError(
                "there are no ratings to train on: run `recsys load PATH` first, or name a folder with --from"
            )
        if n_events and job.objective == "ranking":
            raise InputError("the database holds events too, which training over ranks does not take: use recsys train")
        return RankSource({"ratings in the database": n_ratings}, n_ratings, None)


def refuse_disagreement(group: Group, seen: dict[str, Any]) -> None:
    """Refuse ranks that see other data, or were started with other options, than rank 0.

    Raises:
        InputError: on every rank.
    """
    everyone = group.gather_objects(seen)
    for rank, other in enumerate(everyone):
        differs = [name for name in everyone[0] if other.get(name) != everyone[0][name]]
        if differs or other.keys() != everyone[0].keys():
            shown = ", ".join(f"{name}: {everyone[0][name]} and {other.get(name)}" for name in differs[:3])
            raise InputError(
                f"rank 0 and rank {rank} disagree ({shown or 'one reads files, the other the database'}): mount the "
                "same folder on every machine, and start every rank with the same command"
            )


def database(engine: Engine | None) -> Engine:
    """Return the database, which this rank needs."""
    assert engine is not None
    return engine


def read_state(engine: Engine) -> tuple[Buried | None, int]:
    """Return the users that were erased and the ratings that were taken back, and the last change of the database."""
    with reading(engine) as connection:
        return read_buried(connection), current_seq(connection)


@contextmanager
def reading_batches(
    engine: Engine | None, settings: Settings, job: RankJob, source: RankSource, group: Group, buried: Buried | None
) -> Iterator[Iterator[RatingBatch]]:
    """Open this rank's part of the ratings, without those of erased users."""
    if source.folder is not None:
        files = source.folder.part(group.rank, group.size)
        bounds = (settings.rating_min, settings.rating_max)
        yield kept_batches(source.folder.batches(files, job.columns, bounds), buried)
        return
    with reading(database(engine)) as connection:
        yield kept_batches(stream_part(connection, group.rank, group.size), buried)


def kept_batches(batches: Iterator[RatingBatch], buried: Buried | None) -> Iterator[RatingBatch]:
    """Yield batches without the rows of erased users, and without those that were taken back since."""
    if buried is None:
        yield from batches
        return
    import pyarrow as pa

    for batch in batches:
        columns = without_buried(collect([batch]), buried)[0]
        if len(columns):
            users, items = (
                pa.array(names, pa.string()).take(pa.array(code))
                for code, names in ((columns.user_code, columns.user_ids), (columns.item_code, columns.item_ids))
            )
            lines = np.arange(len(columns), dtype=np.int64)
            yield RatingBatch(users, items, columns.rating, columns.rated_at, lines)


def warn_of_rejects(group: Group, source: RankSource) -> None:
    """Say how many rows of the files were left out, and the first of them."""
    folder = source.folder
    found = group.gather_objects((0, []) if folder is None else (folder.n_rejected, folder.rejected))
    n = sum(each[0] for each in found)
    if n and group.rank == 0:
        first = next(each[1][0] for each in found if each[1])
        say(f"{n:,} rows were left out, such as {first}")


def config_of(engine: Engine, job: RankJob, data: Partition) -> Config:
    """Return the settings to train with: those of one process, without what is not trained over ranks.

    Raises:
        InputError: a setting is out of range.
    """
    with reading(engine) as connection:
        config = choose_config(
            connection,
            job.objective,
            "dot",
            data.n_ratings,
            int(data.n_users.sum()),
            data.effective_items,
            job.overrides,
        )
    return replace(config, features=False)


def say_start(group: Group, job: RankJob, data: Partition, config: Config) -> None:
    """Say what is trained."""
    if group.rank:
        return
    if data.n_left_out:
        say(f"{job.objective}: {data.n_left_out:,} ratings far outside the scale are not trained on")
    say(
        f"{job.objective}: training {config.n_factors} factors on {int(data.n_train.sum()):,} ratings of "
        f"{int(data.n_users.sum()):,} users and {data.n_items:,} items, measuring on {int(data.n_test.sum()):,}"
    )


def say_epoch(job: RankJob, config: Config, record: EpochRecord) -> None:
    """Say how an epoch ended."""
    say(
        f"{job.objective}: epoch {record.epoch} of {config.n_epochs}: loss {record.train_loss:.5f}, "
        f"{record.seconds:.1f} s"
    )
