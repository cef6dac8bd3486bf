"""Measure lists by the protocols of published papers, where figures of other models can be looked up.

    python -m benchmarks.published [--protocols Gowalla Yelp2018 NCF] [--model portfolio]

Yelp2018 and Gowalla in the split of LightGCN (He et al., SIGIR 2020): the whole catalogue is ranked without the items
of the training part, all test items are relevant; Recall@20 is over all of a user's test items. NCF (He et al., WWW
2017): each user's last film of MovieLens 1M is ranked among 99 others that they did not rate.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks.case import Case
from benchmarks.data import SHARED_DATA, require_file
from benchmarks.ours import LISTS, lists, ratings, train_case, train_portfolio
from benchmarks.report import format_figure, markdown_table
from recsys.data.keyed import positions
from recsys.factors import Factors
from recsys.scoring.profile import profiles_of
from recsys.scoring.search import index_over

K = 20
"""Length of the lists of LightGCN's protocol."""
N_NEGATIVES = 99


@dataclass(frozen=True, slots=True)
class Protocol:
    """A training set with the pairs that lists are measured on.

    Attributes:
        case: without ratings that say how much, if it is implicit.
        negatives: (n_test, 99) items that each test item is ranked among; `None`: all.
    """

    case: Case
    negatives: NDArray[np.int64] | None = None


def light_gcn(name: str, folder: Path) -> Protocol:
    """Read one of LightGCN's data sets, whose ids are counted from 0."""
    (user, item), (test_user, test_item) = (
        pairs_of(require_file(folder / name / f"{part}.parquet")) for part in ("train", "test")
    )
    case = Case(
        user=user,
        item=item,
        rating=np.ones(len(user), np.float32),
        test_user=test_user,
        test_item=test_item,
        test_rating=np.full(len(test_user), 5, np.float32),
        n_users=int(max(user.max(), test_user.max())) + 1,
        n_items=int(max(item.max(), test_item.max())) + 1,
        is_implicit=True,
    )
    return Protocol(case)


def pairs_of(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the users and items of a file of pairs."""
    table = pyarrow.parquet.read_table(path, columns=["user_id", "item_id"])
    user, item = (column.to_numpy().astype(np.int32) for column in table.columns)
    return user, item


def ncf(folder: Path) -> Protocol:
    """Read MovieLens 1M with NCF's test pairs, which are left out of the training part."""
    table = pyarrow.parquet.read_table(require_file(folder / "ml-1m" / "ratings.parquet"))
    user, item, rating = (table[name].to_numpy() for name in ("user_id", "item_id", "rating"))
    test_user, test_item = pairs_of(require_file(folder / "ml-1m" / "ncf-test.parquet"))
    of_user, negative = pairs_of(require_file(folder / "ml-1m" / "ncf-negatives.parquet"))
    n_items = int(max(item.max(), negative.max())) + 1
    is_test = np.isin(user.astype(np.int64) * n_items + item, test_user.astype(np.int64) * n_items + test_item)
    case = Case(
        user=user[~is_test].astype(np.int32),
        item=item[~is_test].astype(np.int32),
        rating=rating[~is_test].astype(np.float32),
        test_user=test_user,
        test_item=test_item,
        test_rating=np.full(len(test_user), 5, np.float32),
        n_users=int(user.max()) + 1,
        n_items=n_items,
    )
    by_user = negative[np.argsort(of_user, kind="stable")].reshape(-1, N_NEGATIVES).astype(np.int64)
    return Protocol(case, by_user[np.argsort(np.argsort(test_user, kind="stable"), kind="stable")])


PROTOCOLS: dict[str, Callable[[Path], Protocol]] = {
    "Yelp2018": lambda folder: light_gcn("yelp2018", folder),
    "Gowalla": lambda folder: light_gcn("gowalla", folder),
    "NCF": ncf,
}


def measure(protocol: Protocol, factors: Factors) -> dict[str, float]:
    """Return the figures of a protocol."""
    if protocol.negatives is not None:
        return among_negatives(protocol.case, protocol.negatives, factors)
    return whole_catalogue(protocol.case, lists(protocol.case, factors, K))


def whole_catalogue(case: Case, found: NDArray[np.int64]) -> dict[str, float]:
    """Return Recall@20, NDCG@20 and coverage of lists of `case.list_users`: (n_list_users, 20)."""
    row = np.searchsorted(case.list_users, case.test_user[case.relevant])
    n_relevant = np.bincount(row, minlength=len(found))
    relevant = row * np.int64(case.n_items) + case.test_item[case.relevant]
    hit = np.isin(np.arange(len(found))[:, None] * np.int64(case.n_items) + found, relevant) & (found >= 0)
    discount = 1 / np.log2(np.arange(2, found.shape[1] + 2))
    ideal = np.cumsum(discount)[np.minimum(n_relevant, found.shape[1]) - 1]
    return {
        f"Recall@{K}": float((hit.sum(1) / n_relevant).mean()),
        f"NDCG@{K}": float((hit @ discount / ideal).mean()),
        "coverage": len(np.unique(found[found >= 0])) / len(np.unique(case.item)),
    }


def among_negatives(case: Case, negatives: NDArray[np.int64], factors: Factors) -> dict[str, float]:
    """Return HR@10 and NDCG@10 of each test item among its negatives; of equal scores the test item is the last."""
    train = ratings(case).compact()
    items = np.column_stack([case.test_item.astype(np.int64), negatives])  # (n_test, 100)
    rank = np.empty(len(items), np.int64)
    index = index_over(factors, train.item_keys)
    profiles = profiles_of(factors, train, case.test_user.astype(np.int64), train.item_keys)
    place = np.searchsorted(train.item_keys, items).clip(max=train.n_items - 1)
    known = train.item_keys[place] == items
    of_user = positions(factors.user_keys, case.test_user.astype(np.int64))
    vectors = np.where(of_user[:, None] >= 0, factors.user_factors[of_user], 0)  # (n_test, width)
    for row, one in enumerate(vectors):
        vector = np.broadcast_to(one, (items.shape[1], len(one)))
        z = index.pair_scores(vector, place[row])
        added = index.added([None if profiles is None else profiles[row]])
        if added is not None:
            z = z + added[0, place[row]]
        z = np.where(known[row], z, -np.inf)
        rank[row] = (z[1:] >= z[0]).sum()
    hit = rank < 10
    return {"HR@10": float(hit.mean()), "NDCG@10": float((hit / np.log2(rank + 2)).mean())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and print its table."""
    parser = argparse.ArgumentParser(description="Lists by the protocols of published papers.")
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--model", choices=["portfolio", *LISTS], default="portfolio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the real ratings")
    options = parser.parse_args(arguments)
    for name in options.protocols:
        protocol = PROTOCOLS[name](options.data)
        if options.model == "portfolio":
            cost, factors, choice = train_portfolio(protocol.case, seed=options.seed)
            chosen = f"{choice.architecture} {dict(choice.settings)} of {dict(choice.measured)}"
        else:
            cost, fitted = train_case(protocol.case, options.model, seed=options.seed)
            factors, chosen = fitted.factors, f"{options.model} {dict(fitted.found)}"
        figures = measure(protocol, factors)
        head = ["", *figures, "training, s", "peak memory, MiB"]
        row = [name, *(format_figure(value, "") for value in figures.values())]
        row += [format_figure(cost.seconds, ", s"), format_figure(cost.peak_mib, "MiB")]
        sys.stdout.write(markdown_table(head, [row]) + f"\n\n{chosen}\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
