"""Model versions: stored whole, published in one step, never overwritten."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, func, insert, select, update

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.models import live_numbers, load_factors, load_judged, publish, roll_back, store, version, versions
from recsys.database.publications import was_published
from recsys.database.retention import prune
from recsys.errors import DamagedVersionError, InputError, LockedError, NotFoundError
from recsys.factors import FeatureEmbeddings, Head, RankingConstants
from recsys.scoring.neighbours import find_neighbours
from recsys.scoring.score import score_users
from tests.conftest import KNOWN_FACTORS, add_known_model, add_known_rows


@pytest.fixture
def rows(engine: Engine) -> Engine:
    add_known_rows(engine)
    return engine


def test_factors_come_back_as_they_were(rows: Engine) -> None:
    number = add_known_model(rows, "rating")
    with reading(rows) as connection:
        factors = load_factors(connection, number)
        side = load_factors(connection, number, users=False)
        stored = version(connection, number)
    assert factors.item_factors.tolist() == [list(known[:2]) for known in KNOWN_FACTORS.values()]
    assert factors.item_factors.dtype == np.float32
    assert factors.rating_range == (0.5, 5.5)
    assert side.item_keys.tolist() == factors.item_keys.tolist()
    assert side.item_bias.tolist() == factors.item_bias.tolist()
    assert (stored.n_users, stored.n_items, stored.n_factors) == (3, 6, 2)
    assert stored.training.metrics == {"rmse": 0.9, "mae": 0.7}
    assert not stored.live


def test_neighbours_come_back_with_the_version_and_not_with_its_twin(rows: Engine) -> None:
    with reading(rows) as connection:
        bare = load_factors(connection, add_known_model(rows, "ranking"))
        training = version(connection, 1).training
    near = find_neighbours(bare, np.arange(6) != 2, 3)
    assert near is not None
    number = store(rows, replace(bare, neighbours=near), training, twin=replace(bare, neighbours=near))
    with reading(rows) as connection:
        stored = load_factors(connection, number, users=False).neighbours
        assert load_judged(connection, number).neighbours is None
        assert bare.neighbours is None
    assert stored is not None
    for name in ("item_idx", "scores", "in_pool"):
        assert np.array_equal(getattr(stored, name), getattr(near, name))


def test_a_twin_takes_half_the_space_and_the_version_keeps_every_bit(rows: Engine) -> None:
    with reading(rows) as connection:
        bare = load_factors(connection, add_known_model(rows, "ranking"))
        training = version(connection, 1).training
    rng = np.random.default_rng(0)
    users = replace(bare.users, factors=rng.normal(size=bare.user_factors.shape).astype(np.float32))
    number = store(rows, replace(bare, users=users), training, twin=replace(bare, users=users))
    stored = schema.user_factors.c
    with reading(rows) as connection:
        served, twin = load_factors(connection, number), load_judged(connection, number)
        lengths = [
            {len(vector) for vector in connection.scalars(select(stored.vector).where(stored.number == each))}
            for each in (number, -number)
        ]
    assert np.array_equal(served.user_factors, users.factors)
    assert twin.user_factors.dtype == np.float32
    assert np.array_equal(twin.user_factors, users.factors.astype(np.float16))
    assert np.array_equal(twin.item_factors, bare.item_factors)
    assert lengths == [{8}, {4}]
    # Each damage of a twin shows, as of a version.
    for change in (lambda vector: bytes([vector[0] ^ 1, *vector[1:]]), lambda vector: vector + vector):
        with writing(rows) as connection:
            row = connection.execute(select(stored.user_key, stored.vector).where(stored.number == -number)).first()
            assert row is not None
            damaged = (stored.number == -number) & (stored.user_key == row.user_key)
            connection.execute(update(schema.user_factors).where(damaged).values(vector=change(row.vector)))
            with pytest.raises(DamagedVersionError):
                load_judged(connection, number)
            connection.execute(update(schema.user_factors).where(damaged).values(vector=row.vector))
    # What half precision cannot hold is kept as it is.
    users = replace(users, factors=users.factors * np.float32(1e6))
    number = store(rows, replace(bare, users=users), training, twin=replace(bare, users=users))
    with reading(rows) as connection:
        assert np.array_equal(load_judged(connection, number).user_factors, users.factors)


HEAD = Head(
    n_dot=1,
    layers=(
        (np.array([[1.0], [-2.0]], np.float32), np.array([0.5, 1.0], np.float32)),
        (np.array([[3.0, 4.0]], np.float32), np.array([-1.0], np.float32)),
    ),
)


def test_the_layers_of_a_neural_version_come_back_and_go_with_it(rows: Engine) -> None:
    neural, dot = add_known_model(rows, "ranking", head=HEAD), add_known_model(rows, "ranking")
    with reading(rows) as connection:
        factors, side = load_factors(connection, neural), load_factors(connection, neural, users=False)
        assert load_factors(connection, dot).head is None
        assert version(connection, neural).training.architecture == "neural"
    for loaded in (factors.head, side.head):
        assert loaded is not None
        assert loaded.n_dot == 1
        for (weight, bias), (known_weight, known_bias) in zip(loaded.layers, HEAD.layers, strict=True):
            assert weight.tolist() == known_weight.tolist()
            assert bias.tolist() == known_bias.tolist()
    p, q = factors.user_factors[1], factors.item_factors[2]
    x = np.maximum(p[1] + q[1], 0)
    hidden = np.maximum([x + 0.5, -2 * x + 1], 0)
    expected = p[0] * q[0] + 3 * hidden[0] + 4 * hidden[1] - 1 + factors.item_bias[2]
    assert score_users(factors, np.array([1]))[0, 2] == pytest.approx(expected)
    publish(rows, dot, "so that the other can go")
    assert prune(rows, 1) == [neural]
    with reading(rows) as connection:
        assert connection.scalar(select(func.count()).select_from(schema.model_weights)) == 0


def test_what_fold_in_needs_comes_back_as_it_was(rows: Engine) -> None:
    with reading(rows) as connection:
        bare = load_factors(connection, add_known_model(rows, "ranking"))
        training = version(connection, 1).training
    names = ("category: Ärger", "year: 1990s")
    known = FeatureEmbeddings(
        names, np.ones(2, np.float32), np.eye(2, dtype=np.float32), np.array([0.5, -0.5], np.float32)
    )
    factors = replace(
        bare,
        users=replace(bare.users, features=known),
        items=replace(bare.items, implicit=bare.item_factors * 2, features=replace(known, names=("a", "b"))),
        head=Head(1, (), np.arange(6, dtype=np.float32).reshape(2, 3)),
        constants=RankingConstants(3.25, 4.0, 0.1, 21.5, rating_weight=1.5, user_power=0.25),
    )
    number = store(rows, factors, training)
    with reading(rows) as connection:
        loaded, side, without = (
            load_factors(connection, number),
            load_factors(connection, number, users=False),
            load_factors(connection, 1, users=False),
        )
    for stored in (loaded, side):
        assert stored.items.implicit is not None
        assert stored.items.implicit.tolist() == (bare.item_factors * 2).tolist()
        assert stored.users.features is not None
        assert stored.users.features.names == names
        assert stored.users.features.base.tolist() == [1, 1]
        assert stored.users.features.vectors.tolist() == [[1, 0], [0, 1]]
        assert stored.users.features.bias.tolist() == [0.5, -0.5]
        assert stored.items.features is not None
        assert stored.items.features.names == ("a", "b")
        assert stored.head is not None
        assert stored.head.user_map is not None
        assert stored.head.user_map.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert stored.constants == factors.constants
    assert (without.items.implicit, without.users.features, without.head, without.constants) == (None,) * 4


def test_of_a_large_catalogue_the_best_products_go_through_the_layers(
    rows: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = add_known_model(rows, "ranking", head=HEAD)
    with reading(rows) as connection:
        factors = load_factors(connection, number)
    p, of_one = factors.user_factors[1], np.array([1])
    exact = score_users(factors, of_one)[0]
    monkeypatch.setattr("recsys.scoring.score.EXACT_ITEMS", 5)
    monkeypatch.setattr("recsys.scoring.score.N_CANDIDATES", 3)
    candidates = score_users(factors, of_one)[0]
    products = factors.item_factors[:, 0] * p[0] + factors.item_bias
    best = np.argsort(-products)[:3]
    assert candidates[best].tolist() == pytest.approx(exact[best].tolist())
    assert np.isinf(np.delete(candidates, best)).all()


def test_publishing_is_recorded_with_its_reason_and_can_be_rolled_back(rows: Engine) -> None:
    first, second = add_known_model(rows, "ranking"), add_known_model(rows, "ranking")
    publish(rows, first, "the first")
    publish(rows, second, "better")
    with reading(rows) as connection:
        assert live_numbers(connection) == {"ranking": second}
        assert [(stored.number, stored.live) for stored in versions(connection)] == [(second, True), (first, False)]
    assert roll_back(rows, "ranking", "complaints").number == first
    with reading(rows) as connection:
        assert live_numbers(connection) == {"ranking": first}
        history = connection.execute(
            select(
                schema.publications.c.number, schema.publications.c.replaced_number, schema.publications.c.reason
            ).order_by(schema.publications.c.publication_key)
        ).all()
    assert [tuple(row) for row in history] == [
        (first, None, "the first"),
        (second, first, "better"),
        (first, second, "complaints"),
    ]


def test_rolling_back_again_goes_further_back_and_never_forward(rows: Engine) -> None:
    numbers = [add_known_model(rows, "ranking") for _ in range(4)]
    for number in numbers[:3]:
        publish(rows, number, "better")
    publish(rows, numbers[2], "again")  # changes nothing
    assert roll_back(rows, "ranking", "bad").number == numbers[1]
    assert roll_back(rows, "ranking", "bad too").number == numbers[0]
    with pytest.raises(NotFoundError):
        roll_back(rows, "ranking", "and this")
    publish(rows, numbers[3], "new")
    assert roll_back(rows, "ranking", "bad").number == numbers[0]
    with reading(rows) as connection:
        assert was_published(connection, numbers[2])
        assert not was_published(connection, 99)


def test_nothing_to_roll_back_to(rows: Engine) -> None:
    publish(rows, add_known_model(rows, "ranking"), "the first")
    with pytest.raises(NotFoundError, match="no earlier live version of the ranking model"):
        roll_back(rows, "ranking", "complaints")


def test_objectives_are_live_side_by_side(known_engine: Engine) -> None:
    with reading(known_engine) as connection:
        assert live_numbers(connection) == {"ranking": 1, "rating": 2}


def test_a_guard_that_objects_leaves_the_old_version_live(rows: Engine) -> None:
    first, second = add_known_model(rows, "ranking"), add_known_model(rows, "ranking")
    publish(rows, first, "the first")

    def guard(_connection: object) -> None:
        raise LockedError("the lease was lost")

    with pytest.raises(LockedError):
        publish(rows, second, "too late", guard)
    with reading(rows) as connection:
        assert live_numbers(connection) == {"ranking": first}
        assert connection.scalar(select(func.count()).select_from(schema.publications)) == 1


def test_a_version_half_stored_is_never_seen_and_goes_with_the_next(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    with writing(rows) as connection:
        row = connection.execute(select(schema.models).where(schema.models.c.number == number)).one()
        left = {name: value for name, value in row._asdict().items() if name != "number"}
        statement = insert(schema.models).values({**left, "status": "storing"}).returning(schema.models.c.number)
        half = connection.execute(statement).scalar_one()
    with reading(rows) as connection:
        assert [stored.number for stored in versions(connection)] == [number]
        with pytest.raises(NotFoundError):
            version(connection, half)
    following = add_known_model(rows, "ranking")
    assert following > half  # numbers are never given twice
    with reading(rows) as connection:
        numbers = connection.scalars(select(schema.models.c.number).order_by(schema.models.c.number)).all()
    assert numbers == [number, following]


def test_prune_keeps_the_newest_and_the_live_ones(rows: Engine) -> None:
    numbers = [add_known_model(rows, "ranking") for _ in range(4)]
    publish(rows, numbers[0], "the oldest is live")
    assert prune(rows, 1) == [numbers[2], numbers[1]]
    with reading(rows) as connection:
        assert [stored.number for stored in versions(connection)] == [numbers[3], numbers[0]]
        left = connection.scalars(select(schema.item_factors.c.number).distinct()).all()
    assert sorted(left) == [numbers[0], numbers[3]]
    with pytest.raises(InputError, match="at least one"):
        prune(rows, 0)


def test_an_unknown_version_says_where_to_look(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="no model version 7: see `recsys models list`"):
        publish(engine, 7, "typo")
