"""Training over ranks: the same model on any number of ranks, continued after a rank was killed, bad input refused."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.ranks import measure
from benchmarks.ranks import write_ratings as write_generated
from recsys.data.encoding import as_ratings, collect
from recsys.data.keyed import hash_ids
from recsys.database.engine import connect, reading
from recsys.database.models import ModelVersion, load_factors, versions
from recsys.database.runs import read_run, read_runs
from recsys.evaluation.splits import hold_out
from recsys.training.ranks.group import Group
from tests.training.made_ranks import batches, spread, train_made
from tests.training.ranks import elastic, launch, write_ratings

SMALL = ["--lanes", "4", "--n-epochs", "3", "--n-factors", "8", "--batch-size", "512", "--json", "--no-publish"]
RATING = ["--objective", "rating", *SMALL, "--set", "learning_rate=0.06,l2=0.02,damping=1"]
RANKING = ["--objective", "ranking", *SMALL, "--set", "learning_rate=0.02"]
SAMPLED = [*RANKING, "--set", "n_sampled=40,l2=0.01"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "ratings"
    write_ratings(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, migrated_sqlite: Path) -> Path:
    shutil.copy(migrated_sqlite, tmp_path / "recsys.db")
    return tmp_path


def stored(folder: Path) -> ModelVersion:
    with reading(connect(f"sqlite:///{folder}/recsys.db")) as connection:
        found = versions(connection)[0]
        factors = load_factors(connection, found.number)
    assert factors.n_users == found.n_users == 300
    assert factors.n_items == found.n_items
    return found


def train(folder: Path, ratings: Path, size: int, options: list[str]) -> ModelVersion:
    codes, outputs = launch(folder, [[*options, "--from", str(ratings)]] * size)
    assert codes == [0] * size, outputs
    assert json.loads(outputs[0].splitlines()[0])["model_version"] == stored(folder).number
    return stored(folder)


def n_steps(folder: Path) -> int:
    """Return the steps that the latest training took since it began or went on."""
    with reading(connect(f"sqlite:///{folder}/recsys.db")) as connection:
        run = read_run(connection, read_runs(connection, 1)[0].number)
    assert run is not None
    return int(next(step.figures["n_steps"] for step in run.steps if step.name == "store"))


def losses(found: ModelVersion) -> list[float]:
    return [float(str(epoch["train_loss"])) for epoch in found.training.history]


@pytest.fixture(scope="module")
def on_one(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, ratings: Path) -> dict[str, ModelVersion]:
    folder = tmp_path_factory.mktemp("one")
    shutil.copy(migrated_sqlite, folder / "recsys.db")
    options = {"rating": RATING, "ranking": RANKING, "sampled": SAMPLED}
    return {name: train(folder, ratings, 1, each) for name, each in options.items()}


def test_ranks_train_the_model_of_one_process(folder: Path, ratings: Path, on_one: dict[str, ModelVersion]) -> None:
    for size, name, options in ((4, "rating", RATING), (2, "ranking", RANKING), (4, "sampled", SAMPLED)):
        found, alone = train(folder, ratings, size, options), on_one[name]
        assert found.training.data_fingerprint == alone.training.data_fingerprint
        assert losses(found) == pytest.approx(losses(alone), rel=1e-4)
        assert found.training.metrics == pytest.approx(alone.training.metrics, abs=1e-3)
    rating = on_one["rating"].training
    assert rating.metrics["rmse"] < 0.8 * rating.baselines["bias"]["rmse"]


KEEP_EVERY_WINDOW = """
    from recsys.training.ranks.checkpoint import RankCheckpoint
    keep = RankCheckpoint.keep
    def keep_now(self, tables, numbers, *, is_last):
        self._every = 0
        keep(self, tables, numbers, is_last=is_last)
        if {dies} and numbers["step"] >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
    RankCheckpoint.keep = keep_now
"""


def test_a_killed_rank_starts_again_and_all_go_on(folder: Path, ratings: Path, on_one: dict[str, ModelVersion]) -> None:
    dies = "os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'"
    options = [*RATING, "--from", str(ratings)]
    done = elastic(folder, 2, 1, KEEP_EVERY_WINDOW.format(dies=dies), options)
    assert done.returncode == 0, done.stderr
    assert losses(stored(folder)) == pytest.approx(losses(on_one["rating"]), rel=1e-4)
    assert not list((folder / ".recsys/checkpoints").glob("*"))


def test_a_training_continues_on_another_number_of_ranks(
    folder: Path, ratings: Path, on_one: dict[str, ModelVersion]
) -> None:
    options = [*SAMPLED, "--from", str(ratings)]
    done = elastic(folder, 2, 0, KEEP_EVERY_WINDOW.format(dies="os.environ['RANK'] == '1'"), options)
    assert done.returncode != 0
    (kept,) = (folder / ".recsys/checkpoints").glob("ranks-ranking-*/step-*/run.json")
    n_done = json.loads(kept.read_text())["numbers"]["step"]
    assert n_done >= 10
    assert losses(train(folder, ratings, 3, SAMPLED)) == pytest.approx(losses(on_one["sampled"]), rel=1e-4)
    assert n_steps(folder) + n_done == 3 * 14  # epochs, steps of an epoch


def refused(folder: Path, *ranks: list[str] | None) -> list[str]:
    """Return what each rank says."""
    codes, outputs = launch(folder, list(ranks))
    assert all(code == 1 for code in codes), outputs
    return [output.strip().splitlines()[-1] for output in outputs]


def test_bad_input_is_refused_on_every_rank(folder: Path, ratings: Path) -> None:
    other = folder / "other"
    shutil.copytree(ratings, other)
    (other / "part-00001.parquet").unlink()
    for said in refused(folder, [*RATING, "--from", str(ratings)], [*RATING, "--from", str(other)]):
        assert "part 1 of part-… is missing: 2 of 3 files are there" in said
    (other / "part-00002.parquet").unlink()
    for said in refused(folder, [*RATING, "--from", str(ratings)], [*RATING, "--from", str(other)]):
        assert "rank 0 and rank 1 disagree (files: 3 and 1, rows: 9000 and 3000" in said
    for said in refused(folder, [*RATING, "--from", str(other)], [*RATING, "--seed", "1", "--from", str(other)]):
        assert "rank 0 and rank 1 disagree (--seed: 0 and 1)" in said
    odd = pq.read_table(other / "part-00000.parquet")
    pq.write_table(odd.set_column(2, "rating", odd["rating"].cast(pa.string())), other / "part-00001.parquet")
    for said in refused(folder, *[[*RATING, "--from", str(other)]] * 2):
        assert "part-00001.parquet has the columns user_id string, item_id string, rating string" in said
    few = folder / "few"
    few.mkdir()
    table = pa.table({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "rating": [1.0, 5.0, 3.0]})
    pq.write_table(table, few / "ratings.parquet")
    for said in refused(folder, *[[*RATING, "--from", str(few)]] * 3):
        assert "2 users have ratings, and there are 3 ranks: start at most 2" in said
    (few / "ratings.parquet").write_bytes(b"PAR1 cut")
    for said in refused(folder, *[[*RATING, "--from", str(few)]] * 2):
        assert "few/ratings.parquet is cut short, damaged or not Parquet" in said
    (said,) = refused(folder, [*RATING, "--start-seconds", "1", "--from", str(ratings)], None)
    assert "rank 0 of 2: not all ranks met at 127.0.0.1:" in said


def test_the_bytes_of_a_step_grow_with_the_batch_and_not_with_the_tables(tmp_path: Path) -> None:
    code = "from pathlib import Path; from tests.training.made_ranks import print_bytes; print_bytes(Path('.'))"
    codes, outputs = launch(tmp_path, [[], []], run=code)
    assert codes == [0, 0], outputs
    for output in outputs:
        sent = {tuple(line.split()[:3]): int(line.split()[3]) for line in output.splitlines()}
        row = 4 * (8 + 1)  # of an item: 8 factors and a bias in float32
        # A rank has about half of a batch, and sends rows to the other rank for its half, and gradients for its own.
        for batch in (256, 1024):
            assert sent["rating", "5000", str(batch)] <= 1.4 * batch * row
        assert sent["rating", "5000", "1024"] > 2 * sent["rating", "5000", "256"]
        assert sent["rating", "5000", "256"] < 2 * sent["rating", "500", "256"]  # more of the items are different ones
        assert sent["ranking", "5000", "1000"] == pytest.approx(sent["ranking", "500", "1000"], rel=0.1)
        assert all(n < row * 5000 / 10 for (_, _, batch), n in sent.items() if batch != "1024")


def test_memory_is_bounded_by_a_window_and_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.training.ranks.spool.FLUSH_ROWS", 10_000)
    peaks = []
    for n_ratings in (30_000, 90_000):
        tracemalloc.start()
        data = spread(Group(), tmp_path / str(n_ratings), 800, 4000, n_ratings, n_ratings // 10_000, "rating")
        run = train_made(Group(), data, "rating", batch_size=1024)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(run.step_bytes) == -(-int(data.n_train.sum()) // 1024)
    assert data.n_ratings > 80_000
    assert peaks[1] < 1.2 * peaks[0]


def test_the_same_ratings_are_held_out_as_by_one_process(tmp_path: Path) -> None:
    data = spread(Group(), tmp_path / "made", 50, 40, 10_000, 3, "rating")
    ratings = as_ratings(collect(batches(Group(), 50, 40, 10_000)))
    held_out = hold_out(ratings)
    assert (data.fingerprint, data.n_ratings) == (ratings.fingerprint(), ratings.n_ratings)
    found = set()
    for lane, slot in np.ndindex(data.n_users.shape):
        bucket = data.test(lane, slot)
        users = [data.user_ids[code] for code in bucket.users.tolist()]
        found |= {
            (users[user], data.item_ids[item]) for user, item in zip(bucket.user_idx, bucket.item_idx, strict=True)
        }
    test = ratings.select(held_out)
    hashes = {int(each): name for name in map(str, range(50)) for each in hash_ids([name])}
    pairs = zip(test.user_hash[test.user_idx].tolist(), test.item_hash[test.item_idx].tolist(), strict=True)
    assert found == {(hashes[user], hashes[item]) for user, item in pairs}
    assert data.n_test.sum() == len(found)


@pytest.mark.long
@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_a_million_ratings_on_one_two_and_four_ranks(tmp_path: Path, objective: str) -> None:
    write_generated(tmp_path / "ratings", 1_000_000, 20_000, 8000)
    options = ["--objective", objective, "--n-factors", "16", "--n-epochs", "2"]
    options += ["--set", "n_sampled=512"] if objective == "ranking" else []
    alone, *others = [measure(tmp_path / "ratings", n_ranks, options) for n_ranks in (1, 2, 4)]
    for each in others:
        assert each["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert each["metrics"] == pytest.approx(alone["metrics"], abs=0.002)
    assert all(each["peak_memory_mib"] < 1024 for each in (alone, *others))
