"""One run of another library, in the environment of `benchmarks/peers.txt`, which has no recsys.

    python -m benchmarks.peers NAME CASE ANSWER --seed N

All predictions are clipped to the scale of the training ratings.
"""

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import (
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

BLOCK_USERS = 1000
"""Number of users whose scores are in memory at a time."""


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


def ease(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Fit EASE with λ 1000; see `ease_weights`."""
    B = np.empty(0, np.float32)

    def train() -> None:
        nonlocal B
        B = ease_weights(interaction_matrix(case), EASE_L2)

    cost = measure_cost(train)
    return cost, top_lists(case, lambda seen: seen @ B)


def most_popular(case: Case, seed: int) -> tuple[TrainingCost, Answer]:
    """Rank the items by their number of ratings."""
    count = np.empty(0, np.float32)

    def train() -> None:
        nonlocal count
        count = np.bincount(case.item, minlength=case.n_items).astype(np.float32)

    cost = measure_cost(train)
    return cost, top_lists(case, lambda seen: np.broadcast_to(count, seen.shape))


def ease_weights(X: NDArray[np.float32], l2: float) -> NDArray[np.float32]:
    """Compute item weights in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019):

        P = (XᵀX + λI)⁻¹,   B_ij = −P_ij / P_jj,   B_jj = 0

    Args:
        X: (n_users, n_items) of 0 and 1.
        l2: λ.

    Returns:
        B: (n_items, n_items); scores are X·B.
    """
    G = (X.T @ X).astype(np.float64)
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
    "ease": ease,
    "implicit-als": implicit_als,
    "implicit-bpr": implicit_bpr,
    "lenskit-itemknn": lenskit_itemknn,
    "most-popular": most_popular,
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


def interaction_matrix(case: Case) -> NDArray[np.float32]:
    """Return which user rated which item in training: (n_users, n_items) of 0 and 1."""
    X = np.zeros((case.n_users, case.n_items), np.float32)
    X[case.user, case.item] = 1
    return X


def top_lists(case: Case, scores_of: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.int64]:
    """Return the K best items of each user who gets a list, without items seen or unknown in training.

    Items with equal scores are ordered by index.

    Args:
        case: the split.
        scores_of: function from the items that some users have seen, (n, n_items) of 0 and 1, to their scores.
    """
    X = interaction_matrix(case)
    unknown = X.sum(0) == 0
    lists = []
    for start in range(0, len(case.list_users), BLOCK_USERS):
        seen = X[case.list_users[start : start + BLOCK_USERS]]
        scores = np.where((seen > 0) | unknown, -np.inf, scores_of(seen))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        lists.append(np.where(np.isneginf(np.take_along_axis(scores, best, 1)), -1, best))
    return np.concatenate(lists)


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
