"""Needs computed from costs: linear in the sizes, by hand, and readable."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from jobs.capacity import Costs, Size, format_seconds, parse_count, plan_capacity
from recsys.errors import InputError
from recsys.training.config import default_config
from recsys.training.memory import estimate_memory
from tests.jobs.cli.test_main import Recsys

ONES = Costs(
    rating_disk=50,
    user_disk=10,
    item_disk=100,
    version_user_disk=4,
    version_item_disk=8,
    list_row_disk=10,
    server_base_memory=1e6,
    server_item_memory=36,
    load_rating=1e-6,
    train_rating=1e-8,
    train_ranking=2e-8,
    train_score=1e-10,
    search_item=1e-10,
)


def amounts(size: Size, **options: float) -> dict[str, float]:
    return {each.name: each.amount for each in plan_capacity(size, ONES, n_factors=16, **options).lines}  # type: ignore[arg-type]


def test_needs_by_hand() -> None:
    size = Size(n_users=1000, n_items=200, n_ratings=50_000)
    found = amounts(size, lists_per_second=500)
    assert found["ratings, users and items on disk"] == 50_000 * 50 + 1000 * 10 + 200 * 100
    assert found["4 versions and their twins on disk"] == 6 * (1000 * 68 + 200 * (128 + 8))
    assert found["loading"] == pytest.approx(0.05)
    rating = default_config("rating", 50_000, 1000, n_factors=16)
    assert found["rating, a night"] == pytest.approx(2 * rating.n_epochs * 50_000 * 16e-8)
    ranking = default_config("ranking", 50_000, 1000, n_factors=16)
    epoch = 16 * (50_000 * 2e-8 + 1000 * 200 * 1e-10)
    assert found["ranking, a night"] == pytest.approx(2 * ranking.n_epochs * epoch)
    assert found["memory of a night"] == 2_000_000 + max(estimate_memory(size, each) for each in (rating, ranking))
    assert found["memory of a server process"] == 1e6 + 200 * (256 + 64 + 36)
    assert found["a list searched anew"] == pytest.approx(200 * 16e-10)
    assert found["500 lists/s"] == pytest.approx(500 * 200 * 16e-10)
    assert found["lists of all users"] == pytest.approx(1000 * 200 * 16e-10)


def test_a_sampled_softmax_does_not_grow_with_the_catalogue() -> None:
    few, many = (amounts(Size(10**6, n_items, 10**8))["ranking, a night"] for n_items in (10**6, 10**7))
    assert few == many


@pytest.mark.parametrize(
    ("text", "number"),
    [("100", 100), ("62k", 62_000), ("1.5M", 1_500_000), ("10G", 10**10), ("25,000,000", 25_000_000)],
)
def test_counts(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "k", "ten", "0", "-3", "nan", "inf", "1e400"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(InputError, match="such as 25000000"):
        parse_count(text)


def test_times_are_readable() -> None:
    assert [format_seconds(each) for each in (0.0012, 5.0, 90, 3600, 36_000, 864_000)] == [
        "1.2 ms of a core",
        "5 s of a core",
        "90 s of a core",
        "60 min of a core",
        "10 h of a core",
        "10 days of a core",
    ]


def test_costs_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(asdict(ONES)))
    assert Costs.read(file) == ONES
    file.write_text("{}")
    for path in (file, tmp_path / "none"):
        with pytest.raises(InputError, match=r"python -m benchmarks\.capacity"):
            Costs.read(path)


def test_the_command_needs_no_database(tmp_path: Path) -> None:
    recsys = Recsys(tmp_path, f"sqlite:///{tmp_path}/none.db")
    report = recsys.json("capacity", "--users", "100M", "--items", "10M", "--ratings", "10G")
    assert (report["users"], report["items"], report["ratings"]) == (10**8, 10**7, 10**10)
    assert all(each["amount"] > 0 and each["assumes"] for each in report["lines"])
    assert "memory of a night" in recsys("capacity", "--users", "1k", "--items", "1k", "--ratings", "1k")
    assert list(tmp_path.glob("*.db")) == []
