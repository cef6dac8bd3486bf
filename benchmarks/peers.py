"""One run of another library. Runs in the peers' environment (`benchmarks/peers.txt`), which has no recsys.

    python -m benchmarks.peers NAME CASE ANSWER --seed N

Predictions are cut to the scale of the training ratings, whatever the library does by itself.
"""

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Answer, Case, K, Run, Trained, arguments, n_threads, read_case, report, timed

EASE_L2 = 1000.0

_BLOCK = 1000
"""Users whose scores are held at once."""


def surprise_svd(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Biased matrix factorisation by SGD: 100 factors, 20 epochs, the defaults."""
    import surprise

    return _surprise(surprise.SVD(random_state=seed), case)


def surprise_svdpp(case: Case, seed: int) -> tuple[Trained, Answer]:
    """SVD++ with the defaults: 20 factors, 20 epochs."""
    import surprise

    return _surprise(surprise.SVDpp(random_state=seed), case)


def cmfrec_als(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Explicit ALS with biases: 40 factors, λ .08 scaled by the number of ratings, 10 iterations."""
    import cmfrec
    import pandas as pd

    model = cmfrec.CMF(
        k=40, lambda_=0.08, scale_lam=True, niter=10, random_state=seed, verbose=False, nthreads=n_threads()
    )
    frame = pd.DataFrame({"UserId": case.user, "ItemId": case.item, "Rating": case.rating})
    trained = timed(lambda: model.fit(frame))
    return trained, _cut(model.predict(user=case.test_user, item=case.test_item), case)


def lenskit_biasedmf(case: Case, seed: int) -> tuple[Trained, Answer]:
    """ALS on what biases leave: 50 factors, regularisation .1, 10 epochs, the defaults."""
    from lenskit.als import BiasedMFScorer
    from lenskit.batch import predict
    from lenskit.pipeline import predict_pipeline

    pipeline = predict_pipeline(BiasedMFScorer(), fallback=True)
    trained = _lenskit_trained(pipeline, case, seed, with_ratings=True)
    rows_of = _rows_by_user(case.test_user)
    answers = predict(
        pipeline, {user: _lenskit_items(case.test_item[rows]) for user, rows in rows_of.items()}, n_jobs=1
    )
    predicted = np.empty(len(case.test_user))
    for key, items in answers.items():
        predicted[rows_of[int(key.user_id)]] = items.scores()
    return trained, _cut(predicted, case)


def implicit_als(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Implicit ALS: 64 factors, α 5, regularisation 50."""
    from implicit.als import AlternatingLeastSquares

    return _implicit(
        AlternatingLeastSquares(factors=64, alpha=5.0, regularization=50.0, num_threads=n_threads(), random_state=seed),
        case,
    )


def implicit_bpr(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Bayesian personalised ranking with the defaults: 100 factors, 100 iterations."""
    from implicit.bpr import BayesianPersonalizedRanking

    return _implicit(BayesianPersonalizedRanking(num_threads=n_threads(), random_state=seed), case)


def lenskit_itemknn(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Neighbours by cosine, implicit feedback, the default 20 neighbours."""
    from lenskit.batch import recommend
    from lenskit.knn import ItemKNNScorer
    from lenskit.pipeline import topn_pipeline

    pipeline = topn_pipeline(ItemKNNScorer(feedback="implicit"), n=K)
    trained = _lenskit_trained(pipeline, case, seed, with_ratings=False)
    lists = np.full((len(case.asked), K), -1, np.int64)
    for key, items in recommend(pipeline, case.asked.tolist(), K, n_jobs=1).items():
        ids = items.ids()
        lists[np.searchsorted(case.asked, int(key.user_id)), : len(ids)] = ids
    return trained, lists


def ease(case: Case, seed: int) -> tuple[Trained, Answer]:
    """EASE with λ 1000; see `ease_weights`."""
    B = np.empty(0, np.float32)

    def train() -> None:
        nonlocal B
        B = ease_weights(_interactions(case), EASE_L2)

    trained = timed(train)
    return trained, _lists(case, lambda seen: seen @ B)


def most_popular(case: Case, seed: int) -> tuple[Trained, Answer]:
    """Items by their number of ratings."""
    count = np.empty(0, np.float32)

    def train() -> None:
        nonlocal count
        count = np.bincount(case.item, minlength=case.n_items).astype(np.float32)

    trained = timed(train)
    return trained, _lists(case, lambda seen: np.broadcast_to(count, seen.shape))


def ease_weights(X: NDArray[np.float32], l2: float) -> NDArray[np.float32]:
    """Item weights in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019):

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


RATING: dict[str, Callable[[Case, int], tuple[Trained, Answer]]] = {
    "surprise-svd": surprise_svd,
    "surprise-svdpp": surprise_svdpp,
    "cmfrec": cmfrec_als,
    "lenskit-biasedmf": lenskit_biasedmf,
}
RANKING: dict[str, Callable[[Case, int], tuple[Trained, Answer]]] = {
    "ease": ease,
    "implicit-als": implicit_als,
    "implicit-bpr": implicit_bpr,
    "lenskit-itemknn": lenskit_itemknn,
    "most-popular": most_popular,
}
PACKAGE = {"surprise": "scikit-surprise", "cmfrec": "cmfrec", "lenskit": "lenskit", "implicit": "implicit"}
"""The package behind each name up to its hyphen; the others need numpy alone."""


def _surprise(model: Any, case: Case) -> tuple[Trained, Answer]:
    import pandas as pd
    import surprise

    scale = float(case.rating.min()), float(case.rating.max())
    frame = pd.DataFrame({"user": case.user, "item": case.item, "rating": case.rating})
    trainset = surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=scale)).build_full_trainset()
    trained = timed(lambda: model.fit(trainset))
    pairs = zip(case.test_user.tolist(), case.test_item.tolist(), strict=True)
    return trained, _cut(np.array([model.predict(user, item).est for user, item in pairs]), case)


def _implicit(model: Any, case: Case) -> tuple[Trained, Answer]:
    import scipy.sparse
    from threadpoolctl import threadpool_limits

    ones = np.ones(len(case.user), np.float32)
    X = scipy.sparse.csr_matrix((ones, (case.user, case.item)), shape=(case.n_users, case.n_items))
    with threadpool_limits(1, "blas"):  # as it asks for: its threads are its own
        trained = timed(lambda: model.fit(X, show_progress=False))
    unseen = np.flatnonzero(np.bincount(case.item, minlength=case.n_items) == 0)
    lists, _ = model.recommend(case.asked, X[case.asked], N=K, filter_already_liked_items=True, filter_items=unseen)
    return trained, lists.astype(np.int64)


def _lenskit_trained(pipeline: Any, case: Case, seed: int, *, with_ratings: bool) -> Trained:
    import pandas as pd
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    logging.getLogger("lenskit").setLevel(logging.ERROR)
    frame = pd.DataFrame({"user_id": case.user, "item_id": case.item})
    if with_ratings:
        frame["rating"] = case.rating
    data = from_interactions_df(frame)
    return timed(lambda: pipeline.train(data, TrainingOptions(rng=seed)))


def _lenskit_items(item: NDArray[np.int32]) -> Any:
    from lenskit.data import ItemList

    return ItemList(item_ids=item)


def _rows_by_user(user: NDArray[np.int32]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(user, kind="stable")
    users, starts = np.unique(user[order], return_index=True)
    return dict(zip(users.tolist(), np.split(order, starts[1:]), strict=True))


def _cut(predicted: NDArray[Any], case: Case) -> NDArray[np.float32]:
    cut: NDArray[np.float32] = np.clip(predicted, case.rating.min(), case.rating.max()).astype(np.float32)
    return cut


def _interactions(case: Case) -> NDArray[np.float32]:
    """(n_users, n_items) of 0 and 1."""
    X = np.zeros((case.n_users, case.n_items), np.float32)
    X[case.user, case.item] = 1
    return X


def _lists(case: Case, scores_of: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.int64]:
    """The first K of each asked user, items seen or unknown in training left out, equal scores by position.

    Args:
        scores_of: what some users have seen, (n, n_items) of 0 and 1, to their scores.
    """
    X = _interactions(case)
    unknown = X.sum(0) == 0
    lists = []
    for start in range(0, len(case.asked), _BLOCK):
        seen = X[case.asked[start : start + _BLOCK]]
        scores = np.where((seen > 0) | unknown, -np.inf, scores_of(seen))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        lists.append(np.where(np.isneginf(np.take_along_axis(scores, best, 1)), -1, best))
    return np.concatenate(lists)


def main() -> None:
    runs = RATING | RANKING
    given = arguments(__doc__, sorted(runs))
    trained, answer = runs[given.name](read_case(given.case), given.seed)
    package = PACKAGE.get(given.name.split("-")[0])
    versions = {name: version(name) for name in (package, "numpy") if name}
    report(given.answer, answer, Run(*trained, versions=versions, epoch_seconds=[]))


if __name__ == "__main__":
    main()
