"""One run of another library, in the environment of `benchmarks/peers.txt`, which has no recsys.

    python -m benchmarks.peers NAME CASE ANSWER --seed N

All predictions are clipped to the scale of the training ratings.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import (
    RELEVANT_FROM,
    Answer,
    Case,
    K,
    RunResult,
    TrainingCost,
    measure_cost,
    n_threads,
    parse_arguments,
    read_case,
    write_result,
)

EASE_L2 = 1000.0
MAX_EASE_ITEMS = 6000
"""Most items of EASE, whose time grows with their cube: the most rated ones."""
N_NEIGHBOURS = 100
"""Items that each item is similar to, by cosine."""
RP3_POWERS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""β of RP3β that are tried on a random tenth of the training ratings."""

BLOCK_USERS = 1000
"""Number of users whose scores are in memory at a time."""

Interactions = Any
"""A sparse matrix of 0 and 1, (n_users, n_items), or a dense one."""


def surprise_svd(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit biased matrix factorisation by SGD: 100 factors, 20 epochs, the defaults."""
    import surprise

    return fit_surprise(surprise.SVD(random_state=seed), case)


def surprise_svdpp(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit SVD++ with the defaults: 20 factors, 20 epochs."""
    import surprise

    return fit_surprise(surprise.SVDpp(random_state=seed), case)


def cmfrec_als(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit explicit ALS with biases: 40 factors, λ .08 scaled by the number of ratings, 10 iterations."""
    import cmfrec
    import pandas as pd

    model = cmfrec.CMF(
        k=40, lambda_=0.08, scale_lam=True, niter=10, random_state=seed, verbose=False, nthreads=n_threads()
    )
    frame = pd.DataFrame({"UserId": case.user, "ItemId": case.item, "Rating": case.rating})
    cost = measure_cost(lambda: model.fit(frame))
    return cost, clip_to_scale(model.predict(user=case.test_user, item=case.test_item), case)


def lenskit_biasedmf(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit ALS on the residuals of a bias model: 50 factors, regularisation .1, 10 epochs, the defaults."""
    from lenskit.als import BiasedMFScorer
    from lenskit.batch import predict
    from lenskit.data import ItemList
    from lenskit.pipeline import predict_pipeline

    pipeline = predict_pipeline(BiasedMFScorer(), fallback=True)
    cost = fit_lenskit(pipeline, case, seed, with_ratings=True)
    rows_of = rows_by_user(case.test_user)
    answers = predict(
        pipeline, {user: ItemList(item_ids=case.test_item[rows]) for user, rows in rows_of.items()}, n_jobs=1
    )
    predicted = np.empty(len(case.test_user))
    for key, items in answers.items():
        predicted[rows_of[int(key.user_id)]] = items.scores()
    return cost, clip_to_scale(predicted, case)


def implicit_als(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit implicit ALS: 64 factors, α 5, regularisation 50."""
    from implicit.als import AlternatingLeastSquares

    return fit_implicit(
        AlternatingLeastSquares(factors=64, alpha=5.0, regularization=50.0, num_threads=n_threads(), random_state=seed),
        case,
    )


def implicit_bpr(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit Bayesian personalised ranking with the defaults: 100 factors, 100 iterations."""
    from implicit.bpr import BayesianPersonalizedRanking

    return fit_implicit(BayesianPersonalizedRanking(num_threads=n_threads(), random_state=seed), case)


def lenskit_itemknn(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit item neighbours by cosine similarity of implicit feedback, with the default 20 neighbours."""
    from lenskit.batch import recommend
    from lenskit.knn import ItemKNNScorer
    from lenskit.pipeline import topn_pipeline

    pipeline = topn_pipeline(ItemKNNScorer(feedback="implicit"), n=K)
    cost = fit_lenskit(pipeline, case, seed, with_ratings=False)
    lists = np.full((len(case.list_users), K), -1, np.int64)
    for key, items in recommend(pipeline, case.list_users.tolist(), K, n_jobs=1).items():
        ids = items.ids()
        lists[np.searchsorted(case.list_users, int(key.user_id)), : len(ids)] = ids
    return cost, lists


def ease(case: Case, seed: int, l2: float = EASE_L2) -> tuple[TrainingCost, Answer]:
    """Fit EASE with λ 1000 over the `MAX_EASE_ITEMS` most rated items; see `ease_weights`."""
    X = interaction_matrix(case)
    counts = np.bincount(case.item, minlength=case.n_items)
    items = np.sort(np.argsort(-counts, kind="stable")[: min(MAX_EASE_ITEMS, int((counts > 0).sum()))])
    B = np.empty(0, np.float32)

    def train() -> None:
        nonlocal B
        B = ease_weights(X.tocsc()[:, items], l2)

    cost = measure_cost(train)

    def scores_of(seen: Interactions) -> NDArray[np.float32]:
        scores = np.full(seen.shape, np.float32(-1e9))  # below those of all items that have weights
        scores[:, items] = seen.tocsc()[:, items] @ B
        return scores

    return cost, top_lists(case, scores_of)


def ease_100(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit EASE with λ 100, as suits small data."""
    return ease(case, seed, 100.0)


def cosine(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Rank by the sum of the cosine similarities to the user's items, of each item's `N_NEIGHBOURS` nearest."""
    X = interaction_matrix(case)
    counts = np.maximum(np.bincount(case.item, minlength=case.n_items), 1).astype(np.float32)
    neighbours: list[Any] = []

    def train() -> None:
        from scipy import sparse

        Y = sparse.csc_array(X.multiply(counts[None, :] ** -0.5))
        for start in range(0, case.n_items, BLOCK_USERS):
            at = np.arange(start, min(start + BLOCK_USERS, case.n_items))
            similar = (Y[:, at].T @ Y).toarray()  # (n, n_items)
            similar[np.arange(len(at)), at] = 0
            if case.n_items > N_NEIGHBOURS:
                least = np.partition(similar, -N_NEIGHBOURS, axis=1)[:, -N_NEIGHBOURS]
                similar[similar < least[:, None]] = 0
            neighbours.append(sparse.csr_array(similar))

    cost = measure_cost(train)
    from scipy import sparse

    by_item = sparse.csc_array(sparse.vstack(neighbours).T)
    return cost, top_lists(case, lambda seen: (seen @ by_item).toarray())


def rp3_beta(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Rank by `rp3_lists`, with the β of `RP3_POWERS` that finds most of a random tenth of the training ratings."""
    best: list[float] = []

    def choose() -> None:
        held_out = np.random.default_rng(seed).random(len(case.user)) < 0.1
        part = case.hold_out(held_out)
        part = replace(part, test_rating=np.full_like(part.test_rating, RELEVANT_FROM))
        wanted = part.test_user.astype(np.int64) * case.n_items + part.test_item
        users = part.list_users.astype(np.int64)[:, None]

        def n_found(power: float) -> int:
            lists = rp3_lists(part, power)
            return int((np.isin(users * case.n_items + lists, wanted) & (lists >= 0)).sum())

        best.append(max(RP3_POWERS, key=n_found))

    cost = measure_cost(choose)
    return cost, rp3_lists(case, best[0])


def rp3_lists(case: Case, power: float) -> NDArray[np.int64]:
    """Rank by the walk from the user over an item and one of its users to the next item, over n_i^β.

    Paudel, Christoffel, Newell & Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive
    Applications", TiiS 2017.
    """
    from scipy import sparse

    X = interaction_matrix(case)
    items = np.maximum(np.bincount(case.item, minlength=case.n_items), 1).astype(np.float32)
    users = np.maximum(np.bincount(case.user, minlength=case.n_users), 1).astype(np.float32)
    to_users = sparse.csr_array(X.multiply(1 / items[None, :]).T)
    to_items = sparse.csr_array(X.multiply(1 / users[:, None]).multiply(items[None, :] ** -power))
    return top_lists(case, lambda seen: (seen @ to_users @ to_items).toarray())


def most_popular(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Rank the items by their number of ratings."""
    count = np.empty(0, np.float32)

    def train() -> None:
        nonlocal count
        count = np.bincount(case.item, minlength=case.n_items).astype(np.float32)

    cost = measure_cost(train)
    return cost, top_lists(case, lambda seen: np.broadcast_to(count, seen.shape))


def ease_weights(X: Interactions, l2: float) -> NDArray[np.float32]:
    """Compute item weights in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019):

        P = (XᵀX + λI)⁻¹,   B_ij = −P_ij / P_jj,   B_jj = 0

    Args:
        X: (n_users, n_items) of 0 and 1, dense or sparse.
        l2: λ.

    Returns:
        B: (n_items, n_items); scores are X·B.
    """
    G = X.T @ X
    G = np.asarray(G if isinstance(G, np.ndarray) else G.toarray(), np.float64)
    G[np.diag_indices_from(G)] += l2
    P = np.linalg.inv(G)
    B: NDArray[np.float32] = (P / -np.diag(P)).astype(np.float32)
    np.fill_diagonal(B, 0)
    return B


RATING: dict[str, Callable[[Case, int], tuple[TrainingCost, Answer]]] = {
    "surprise-svd": surprise_svd,
    "surprise-svdpp": surprise_svdpp,
    "cmfrec": cmfrec_als,
    "lenskit-biasedmf": lenskit_biasedmf,
}
RANKING: dict[str, Callable[[Case, int], tuple[TrainingCost, Answer]]] = {
    "cosine": cosine,
    "ease": ease,
    "ease-100": ease_100,
    "implicit-als": implicit_als,
    "implicit-bpr": implicit_bpr,
    "lenskit-itemknn": lenskit_itemknn,
    "most-popular": most_popular,
    "rp3-beta": rp3_beta,
}
PACKAGE = {"surprise": "scikit-surprise", "cmfrec": "cmfrec", "lenskit": "lenskit", "implicit": "implicit"}
"""Part of a run's name before its first hyphen → package; all other runs need only numpy."""


def fit_surprise(model: Any, case: Case) -> tuple[TrainingCost, Answer]:
    """Fit a model of Surprise and predict the test ratings."""
    import pandas as pd
    import surprise

    scale = float(case.rating.min()), float(case.rating.max())
    frame = pd.DataFrame({"user": case.user, "item": case.item, "rating": case.rating})
    trainset = surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=scale)).build_full_trainset()
    cost = measure_cost(lambda: model.fit(trainset))
    pairs = zip(case.test_user.tolist(), case.test_item.tolist(), strict=True)
    return cost, clip_to_scale(np.array([model.predict(user, item).est for user, item in pairs]), case)


def fit_implicit(model: Any, case: Case) -> tuple[TrainingCost, Answer]:
    """Fit a model of implicit and list items without training ratings of the user."""
    import scipy.sparse
    from threadpoolctl import threadpool_limits

    ones = np.ones(len(case.user), np.float32)
    X = scipy.sparse.csr_matrix((ones, (case.user, case.item)), shape=(case.n_users, case.n_items))
    with threadpool_limits(1, "blas"):  # implicit warns without it, because it has threads of its own
        cost = measure_cost(lambda: model.fit(X, show_progress=False))
    unseen = np.flatnonzero(np.bincount(case.item, minlength=case.n_items) == 0)
    lists, _ = model.recommend(
        case.list_users, X[case.list_users], N=K, filter_already_liked_items=True, filter_items=unseen
    )
    return cost, lists.astype(np.int64)


def fit_lenskit(pipeline: Any, case: Case, seed: int, *, with_ratings: bool) -> TrainingCost:
    """Fit a pipeline of LensKit, on ratings or on interactions without ratings."""
    import pandas as pd
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    logging.getLogger("lenskit").setLevel(logging.ERROR)
    frame = pd.DataFrame({"user_id": case.user, "item_id": case.item})
    if with_ratings:
        frame["rating"] = case.rating
    data = from_interactions_df(frame)
    return measure_cost(lambda: pipeline.train(data, TrainingOptions(rng=seed)))


def rows_by_user(user: NDArray[np.int32]) -> dict[int, NDArray[np.int64]]:
    """Return the rows of each user."""
    order = np.argsort(user, kind="stable")
    users, starts = np.unique(user[order], return_index=True)
    return dict(zip(users.tolist(), np.split(order, starts[1:]), strict=True))


def clip_to_scale(predicted: NDArray[Any], case: Case) -> NDArray[np.float32]:
    """Clip predictions to the scale of the training ratings."""
    clipped: NDArray[np.float32] = np.clip(predicted, case.rating.min(), case.rating.max()).astype(np.float32)
    return clipped


def interaction_matrix(case: Case) -> Interactions:
    """Return which user rated which item in training: (n_users, n_items) of 0 and 1, sparse."""
    from scipy import sparse

    X = sparse.csr_array((np.ones(len(case.user), np.float32), (case.user, case.item)), (case.n_users, case.n_items))
    X.data[:] = 1  # of pairs that occur twice
    return X


def top_lists(case: Case, scores_of: Callable[[Interactions], NDArray[np.float32]]) -> NDArray[np.int64]:
    """Return the K best items of each user who gets a list, without items seen or unknown in training.

    Items with equal scores are ordered by index.

    Args:
        case: the split.
        scores_of: function from the items that some users have seen, (n, n_items) of 0 and 1, to their scores.
    """
    X = interaction_matrix(case)
    unknown = np.bincount(case.item, minlength=case.n_items) == 0
    lists = []
    for start in range(0, len(case.list_users), BLOCK_USERS):
        seen = X[case.list_users[start : start + BLOCK_USERS]]
        scores = np.array(scores_of(seen), np.float32)
        scores[seen.nonzero()] = -np.inf
        scores[:, unknown] = -np.inf
        best = best_of(scores)
        lists.append(np.where(np.isneginf(np.take_along_axis(scores, best, 1)), -1, best))
    return np.concatenate(lists)


def best_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the K highest columns of each row, of equal ones the first: (n, n_items) → (n, ≤ K)."""
    k = min(K, scores.shape[1])
    if scores.shape[1] <= 4 * k:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    least = np.partition(scores, -k, axis=1)[:, -k]  # (n,) the K-th highest
    best = np.empty((len(scores), k), np.int64)
    for row, (values, low) in enumerate(zip(scores, least, strict=True)):
        among = np.flatnonzero(values >= low)
        best[row] = among[np.argsort(-values[among], kind="stable")[:k]]
    return best


def main() -> None:
    """Run the model of the command line."""
    runs = RATING | RANKING
    options = parse_arguments(__doc__, sorted(runs))
    cost, answer = runs[options.name](read_case(options.case), options.seed)
    package = PACKAGE.get(options.name.split("-")[0])
    versions = {name: version(name) for name in (package, "numpy") if name}
    write_result(options.answer, answer, RunResult(*cost, versions=versions, epoch_seconds=[]))


if __name__ == "__main__":
    main()
