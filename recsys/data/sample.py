"""A generated, seeded catalogue with ratings for the demo, the tests and the benchmarks. numpy only.

Invented films, invented people, and the three things that make real ratings worth a model: a few items that
everybody knows beside a long tail, crowds of users who like the same kinds of items, and items that are liked
more or less than others of their kind.
"""

import csv
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.rows import ItemRow, RatingBatch
from recsys.errors import InputError

_FIRST_YEAR = 2022  # of ratings: nothing in the catalogue is newer
_START_SECONDS = int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
_N_DAYS = 3 * 365

_GENRES: dict[str, tuple[float, str, str, str]] = {
    # genre: share of the catalogue, genres it mixes with, words that describe, words that name
    "Drama": (0.20, "Romance, War, Crime", "Quiet Broken Long Glass Faithful Bitter Gentle Borrowed",
        "Harbour Letter Orchard Daughter House Tide Piano Silence Lighthouse Staircase Window"),
    "Comedy": (0.16, "Romance, Musical, Animation", "Wrong Perfect Awkward Spare Unlikely Clumsy Reluctant",
        "Cousin Wedding Landlord Holiday Neighbour Parrot Diet Reunion Plumber Butler Moustache"),
    "Thriller": (0.11, "Crime, Horror, Action", "Cold Silent Double Blind Final Frozen Hidden Deadly",
        "Witness Signal Alibi Exit Hostage Pursuit Cipher Stranger Passenger Motive Trap"),
    "Romance": (0.09, "Drama, Comedy, Musical", "Tender Moonlit Distant Velvet Secret Summer Rosy Whispered",
        "Kiss Promise Waltz Sweetheart Valentine Garden Dance Heart Bouquet Embrace Serenade"),
    "Action": (0.09, "Thriller, Science Fiction, War", "Rapid Burning Lethal Steel Savage Explosive Armed",
        "Strike Fury Convoy Bullet Showdown Vengeance Squad Impact Ambush Commando Rampage"),
    "Science Fiction": (0.07, "Action, Thriller, Horror", "Orbital Electric Synthetic Lunar Alien Atomic",
        "Star Colony Android Planet Machine Nebula Orbit Spaceship Galaxy Comet Clone"),
    "Crime": (0.06, "Thriller, Drama, Comedy", "Crooked Dirty Stolen Midnight Guilty Marked Hardboiled",
        "Heist Detective Ledger Informer Diamond Racket Getaway Verdict Gangster Bribe Mobster"),
    "Horror": (0.06, "Thriller, Fantasy, Comedy", "Hollow Bleeding Cursed Buried Undead Rotting Unholy",
        "Crypt Scream Ghoul Asylum Coven Cellar Haunting Grave Vampire Mask Nightmare"),
    "Fantasy": (0.05, "Animation, Action, Romance", "Enchanted Silver Ancient Crimson Elven Magic Mystic",
        "Dragon Crown Sorcerer Kingdom Sword Witch Prophecy Griffin Amulet Wizard Unicorn Spell"),
    "Animation": (0.04, "Fantasy, Comedy, Musical", "Tiny Brave Fluffy Wobbly Sleepy Giggling Purple Cuddly",
        "Penguin Robot Hedgehog Balloon Kitten Teapot Snowman Rabbit Duckling Puppy Cupcake Piglet"),
    "Documentary": (0.04, "War, Musical, Drama", "Living True Unseen Vanishing Ordinary Recorded Deep",
        "Glacier River Archive Reef Century Harvest Volcano Workshop Atlas Rainforest Census"),
    "War": (0.03, "Drama, Action, Romance", "Fallen Iron Forward Scarlet Besieged Wounded Marching Occupied",
        "Regiment Trench Bridge Brigade Armistice Bunker Soldier Front Battalion Bugler Convoy"),
    "Western": (0.03, "Action, Drama, Comedy", "Dusty Lonesome Six-Gun Painted Wild Sundown",
        "Rider Canyon Sheriff Saddle Outlaw Stagecoach Ranch Mustang Prairie Saloon Posse"),
    "Musical": (0.03, "Comedy, Romance, Drama", "Dazzling Golden Tap-Dancing Brassy Jazzy",
        "Melody Chorus Stage Encore Trumpet Cabaret Songbird Overture Ballroom Rhythm Refrain"),
}  # fmt: skip

_CROWDS: tuple[tuple[float, str, str, float], ...] = (
    # share of the users, what they love, what they avoid, how much they lean to new items (−1 to old ones)
    (0.17, "Action, Science Fiction, Thriller", "Musical, Romance", 0.5),
    (0.15, "Romance, Comedy, Musical", "Horror, War", 0.3),
    (0.13, "Drama, War, Documentary", "Animation, Action", -0.5),
    (0.12, "Animation, Fantasy, Comedy", "Crime, War", 0.3),
    (0.12, "Crime, Thriller, Drama", "Fantasy, Musical", 0.0),
    (0.11, "Horror, Thriller, Science Fiction", "Romance, Documentary", 0.4),
    (0.10, "Fantasy, Science Fiction, Animation", "Drama, Western", 0.2),
    (0.10, "Western, War, Crime", "Romance, Animation", -1.0),
)

_PLACES = (
    "Avonlea Bergamo Cadiz Dunmore Elmstead Fairhaven Galway Halden Ithaca Jericho Kilmore Lisbon Marrow "
    "Nantes Oakridge Palermo Quincy Ravenna Salcombe Tarragona Ullswater Verona Whitby Yarrow Zurich"
)
_PEOPLE = (
    "Ada Boris Clara Dmitri Edith Felix Greta Hugo Ines Jonas Klara Leopold Mabel Nadia Oscar Petra Quentin "
    "Rosa Silas Tilda Ursula Viktor Wanda Xavier Yusuf Zelda"
)
_PLAIN = "Last First Other Little Great Strange Endless Empty Northern Paper Winter Seventh Old Lost"
_PATTERNS = (
    "The {adjective} {noun}", "{adjective} {noun}", "The {noun} of {place}", "{person}'s {noun}",
    "A {noun} for {person}", "The {noun} and the {other}", "{person} and the {adjective} {noun}",
    "{noun} at {place}", "The {adjective} {noun} of {place}", "Goodbye, {adjective} {noun}",
    "{adjective} {noun}, {plain} {other}",
)  # fmt: skip
_PATTERN_SHARE = (0.24, 0.16, 0.11, 0.09, 0.07, 0.08, 0.08, 0.07, 0.05, 0.03, 0.02)

_PULL = 2.2  # how strongly taste decides what a crowd rates
_LIKING = 1.1  # stars by which taste moves a rating
_NOISE = 0.75  # stars, standard deviation of what nothing explains


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated rating log, oldest first.

    Attributes:
        user_ids: (n_users,) external ids, "u0001" and on.
        items: (n_items,) the catalogue, ids "i0001" and on.
        user_idx, item_idx: (n_ratings,) int32, positions in `user_ids` and `items`; no pair twice.
        rating: (n_ratings,) float32, whole stars from 1 to 5.
        rated_at: (n_ratings,) int64, Unix milliseconds in UTC, whole seconds, ascending.
    """

    user_ids: pa.StringArray
    items: list[ItemRow]
    user_idx: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    rating: NDArray[np.float32]
    rated_at: NDArray[np.int64]

    @property
    def n_ratings(self) -> int:
        return len(self.rating)

    @property
    def ratings(self) -> RatingBatch:
        """The ratings as the reader of `ratings.csv` would hand them over. Built anew at every call."""
        return RatingBatch(
            user_ids=self.user_ids.take(pa.array(self.user_idx)),
            item_ids=pa.array([item.item_id for item in self.items]).take(pa.array(self.item_idx)),
            rating=self.rating.astype(np.float64),
            rated_at=self.rated_at,
            line=np.arange(2, self.n_ratings + 2),
        )


@dataclass(frozen=True, slots=True)
class _Catalogue:
    """Items and what decides who rates them, and how.

    `loading` is (n_items, n_tastes), `quality` and `log_weight` are (n_items,).
    """

    items: list[ItemRow]
    loading: NDArray[np.float32]
    quality: NDArray[np.float32]
    log_weight: NDArray[np.float64]


def generate(n_users: int = 2000, n_items: int = 1000, n_ratings: int = 120_000, seed: int = 0) -> Sample:
    """Draw a catalogue, users and their ratings.

    With tastes p_u and loadings q_i over the genres and the age of an item, user u of crowd c rates items
    without replacement with chances proportional to weight_i · exp(pull · p_c · q_i), and gives

        r_ui = round(2.95 + bias_u + quality_i + liking · p_u · q_i + noise), cut to 1…5.

    Args:
        n_users, n_items, n_ratings: sizes; `n_ratings` is met exactly.
        seed: the same seed and sizes give the same sample.

    Raises:
        InputError: a size below 1, or more ratings than half of all pairs.
    """
    if min(n_users, n_items) < 1 or not 1 <= n_ratings <= n_users * n_items // 2:
        raise InputError(
            f"a sample of {n_ratings} ratings by {n_users} users of {n_items} items: at least one of "
            f"each is needed, and at most half of all pairs, {n_users * n_items // 2} ratings"
        )
    # One stream for each part: more users or ratings leave the catalogue as it is.
    for_items, for_users, for_pairs, for_stars, for_times = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)
    )
    catalogue = _catalogue(for_items, n_items)
    crowd_taste = _crowd_tastes()  # (n_crowds, n_tastes)
    crowds = for_users.choice(len(_CROWDS), size=(n_users, 2), p=[crowd[0] for crowd in _CROWDS])
    taste = 0.75 * crowd_taste[crowds[:, 0]] + 0.25 * crowd_taste[crowds[:, 1]]
    taste += 0.22 * for_users.standard_normal(taste.shape, np.float32)  # (n_users, n_tastes)
    n_rated = _activity(for_users, n_users, n_items, n_ratings)

    affinity = crowd_taste @ catalogue.loading.T  # (n_crowds, n_items)
    user_idx, item_idx = _pairs(for_pairs, n_rated, crowds, catalogue.log_weight, affinity)
    rating = _stars(for_stars, user_idx, item_idx, taste, catalogue)
    rated_at = _times(for_times, user_idx, n_rated)
    order = np.argsort(rated_at, kind="stable")
    return Sample(
        user_ids=pa.array(_ids("u", n_users)),
        items=catalogue.items,
        user_idx=user_idx[order],
        item_idx=item_idx[order],
        rating=rating[order],
        rated_at=rated_at[order],
    )


def write(folder: Path, sample: Sample) -> Path:
    """Write `ratings.csv` and `items.csv` into a folder, which is made if need be, and return it.

    The same sample gives the same bytes. Times are Unix seconds, genres are joined by `|`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ratings = sample.ratings
    table = pa.table(
        {
            "user_id": ratings.user_ids,
            "item_id": ratings.item_ids,
            "rating": ratings.rating.astype(np.int8),
            "rated_at": ratings.rated_at // 1000,
        }
    )
    with (folder / "ratings.csv").open("wb") as file:
        # Arrow quotes the names of columns whether they need it or not.
        file.write(",".join(table.column_names).encode() + b"\n")
        pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False, quoting_style="none"))
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["item_id", "title", "genres", "year"])
        writer.writerows([item.item_id, item.title, "|".join(item.categories), item.year] for item in sample.items)
    return folder


def _ids(letter: str, n: int) -> list[str]:
    width = max(4, len(str(n)))
    return [f"{letter}{number:0{width}}" for number in range(1, n + 1)]


def _catalogue(rng: np.random.Generator, n_items: int) -> _Catalogue:
    genres = list(_GENRES)
    share = np.array([_GENRES[genre][0] for genre in genres])
    main = rng.choice(len(genres), size=n_items, p=share / share.sum())
    kin = np.array([[genres.index(name) for name in _GENRES[genre][1].split(", ")] for genre in genres])
    second, third = np.argsort(rng.random((n_items, 3)), axis=1)[:, :2].T
    n_genres = 1 + (rng.random(n_items) < 0.6) + (rng.random(n_items) < 0.3)
    listed = np.stack([main, kin[main, second], kin[main, third]], axis=1)  # (n_items, 3)
    year = _FIRST_YEAR - 1 - np.minimum(rng.exponential(18, n_items).astype(np.int64), 93)

    loading = np.zeros((n_items, len(genres) + 1), np.float32)
    for place, strength in enumerate((1.0, 0.7, 0.5)):
        has = np.flatnonzero(place < n_genres)
        loading[has, listed[has, place]] = strength
    loading /= np.linalg.norm(loading, axis=1, keepdims=True)
    loading[:, -1] = np.clip((year - _FIRST_YEAR + 18) / 20, -2, 1)
    loading += rng.normal(0, 0.08, loading.shape).astype(np.float32)

    quality = rng.normal(0, 0.42, n_items)
    # Good items are rather better known. Zipf's law with a flat head (Mandelbrot), as in real rating logs.
    rank = np.argsort(np.argsort(-(quality + rng.normal(0, 0.8, n_items))))
    log_weight = -1.0 * np.log(45 + rank) - rank / (0.35 * n_items)
    titles = _titles(rng, [genres[genre] for genre in main], year)
    items = [
        ItemRow(item_id, titles[i], tuple(genres[genre] for genre in listed[i, : n_genres[i]]), int(year[i]))
        for i, item_id in enumerate(_ids("i", n_items))
    ]
    return _Catalogue(items, loading, quality.astype(np.float32), log_weight)


def _titles(rng: np.random.Generator, genres: list[str], year: NDArray[np.int64]) -> list[str]:
    """Distinct titles in the words of the main genre; one drawn again becomes a sequel."""
    n = len(genres)
    pattern = rng.choice(len(_PATTERNS), size=n, p=_PATTERN_SHARE)
    draw = rng.integers(0, 2**31, size=(n, 6))
    places, people, plain_words = _PLACES.split(), _PEOPLE.split(), _PLAIN.split()
    plain = rng.random(n) < 0.4
    titles = [""] * n
    parts: dict[str, int] = {}
    # By year, so that the second part is not older than the first.
    for i in np.argsort(year, kind="stable").tolist():
        _, _, adjectives, nouns = _GENRES[genres[i]]
        adjective, noun = (plain_words if plain[i] else adjectives.split()), nouns.split()
        first = int(draw[i, 1]) % len(noun)
        title = _PATTERNS[pattern[i]].format(
            adjective=adjective[draw[i, 0] % len(adjective)],
            noun=noun[first],
            other=noun[(first + 1 + draw[i, 2] % (len(noun) - 1)) % len(noun)],
            place=places[draw[i, 3] % len(places)],
            person=people[draw[i, 4] % len(people)],
            plain=plain_words[draw[i, 5] % len(plain_words)],
        )
        title = re.sub(r"^A (?=[AEIOU])", "An ", title)
        part = parts[title] = parts.get(title, 0) + 1
        titles[i] = f"{title} ({year[i]})" if part == 1 else f"{title} {part} ({year[i]})"
    return titles


def _crowd_tastes() -> NDArray[np.float32]:
    """What each crowd likes: (n_crowds, n_genres + 1), the last column for new against old items."""
    genres = list(_GENRES)
    taste = np.zeros((len(_CROWDS), len(genres) + 1), np.float32)
    for crowd, (_, loved, avoided, new) in enumerate(_CROWDS):
        for genre in loved.split(", "):
            taste[crowd, genres.index(genre)] = 1.0
        for genre in avoided.split(", "):
            taste[crowd, genres.index(genre)] = -1.0
        taste[crowd, -1] = 0.4 * new
    return taste


def _activity(rng: np.random.Generator, n_users: int, n_items: int, n_ratings: int) -> NDArray[np.int64]:
    """How many items each user rates: (n_users,), heavy-tailed, adding up to `n_ratings`."""
    most = max(1, int(0.7 * n_items))
    least = min(20, n_ratings // (3 * n_users))
    weight = rng.lognormal(0, 1.0, n_users)
    above: NDArray[np.int64] = ((n_ratings - least * n_users) * weight / weight.sum()).astype(np.int64)
    n_rated = np.minimum(least + above, most)
    while (short := n_ratings - int(n_rated.sum())) > 0:
        room = rng.permutation(np.flatnonzero(n_rated < most))[:short]
        n_rated[room] += np.minimum(max(1, short // len(room)), most - n_rated[room])
    return n_rated


def _pairs(
    rng: np.random.Generator,
    n_rated: NDArray[np.int64],
    crowds: NDArray[np.int64],
    log_weight: NDArray[np.float64],
    affinity: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Who rates what: (n_ratings,) users, ascending, and items; no pair twice.

    Each draw follows the user's first crowd, the second, or everybody; an item drawn twice is drawn again,
    which is sampling without replacement.

    Args:
        n_rated: (n_users,) how many items each user rates.
        crowds: (n_users, 2) the crowds that each user belongs to.
        log_weight: (n_items,) popularity with everybody.
        affinity: (n_crowds, n_items) how each crowd likes each item.
    """
    n_users, (n_crowds, n_items) = len(n_rated), affinity.shape
    appeal = np.vstack([log_weight + _PULL * affinity, log_weight, np.zeros(n_items)])
    chance = np.exp(appeal - appeal.max(axis=1, keepdims=True))
    # Row c of the cumulative chances lies in c…c + 1, so that one search serves all crowds.
    steps = (np.cumsum(chance, axis=1) / chance.sum(axis=1, keepdims=True)).clip(max=1)
    steps = (steps + np.arange(len(steps))[:, None]).ravel()
    everybody, anything = n_crowds, n_crowds + 1

    taken = np.empty(0, np.int64)  # user · n_items + item, ascending
    missing = n_rated.copy()
    attempt = 0
    while missing.any():
        user = np.repeat(np.arange(n_users), missing + missing // 3)
        which = rng.random(len(user))
        crowd = np.where(which < 0.65, crowds[user, 0], np.where(which < 0.85, crowds[user, 1], everybody))
        if attempt >= 10:  # these users have nearly all that their crowds rate; more draws would take for ever
            crowd[:] = anything
        item = np.searchsorted(steps, crowd + rng.random(len(user)), side="right") - crowd * n_items
        pair = user * n_items + np.minimum(item, n_items - 1)
        distinct, first = np.unique(pair, return_index=True)
        repeated = np.isin(distinct, taken, assume_unique=True)
        new = np.sort(first[~repeated])  # in the order drawn: cutting by pair would favour low items
        by_user = np.bincount(user[new], minlength=n_users)
        nth = np.arange(len(new)) - np.repeat(np.cumsum(by_user) - by_user, by_user)  # of its user
        new = new[nth < missing[user[new]]]
        taken = np.sort(np.concatenate([taken, pair[new]]), kind="stable")
        missing -= np.bincount(user[new], minlength=n_users)
        attempt += 1
    user, item = np.divmod(taken, n_items)
    return user.astype(np.int32), item.astype(np.int32)


def _stars(
    rng: np.random.Generator,
    user_idx: NDArray[np.int32],
    item_idx: NDArray[np.int32],
    taste: NDArray[np.float32],
    catalogue: _Catalogue,
) -> NDArray[np.float32]:
    user_bias = rng.normal(0, 0.38, len(taste)).astype(np.float32)
    stars = rng.normal(2.95, _NOISE, len(user_idx)).astype(np.float32)
    stars += user_bias[user_idx] + catalogue.quality[item_idx]
    # In pieces: gathered vectors of all pairs at once would be gigabytes for the benchmarks' sizes.
    for start in range(0, len(stars), 1 << 20):
        part = slice(start, start + (1 << 20))
        vectors = taste[user_idx[part]], catalogue.loading[item_idx[part]]
        stars[part] += _LIKING * np.einsum("nf,nf->n", *vectors, optimize=False)
    return np.clip(np.rint(stars), 1, 5)


def _times(rng: np.random.Generator, user_idx: NDArray[np.int32], n_rated: NDArray[np.int64]) -> NDArray[np.int64]:
    """When each rating was given: (n_ratings,) Unix milliseconds.

    Users come now and then, mostly in the evening, and rate about a dozen items in a row.
    """
    n_users = len(n_rated)
    n_sessions = -(-n_rated // 12)
    first_session = np.cumsum(n_sessions) - n_sessions
    user = np.repeat(np.arange(n_users), n_sessions)  # of each session
    joined = rng.uniform(0, 0.95 * _N_DAYS, n_users)
    active_days = np.minimum(rng.exponential(0.3 * _N_DAYS, n_users), _N_DAYS - joined)
    day = np.floor(joined[user] + rng.random(len(user)) * active_days[user])
    hour = rng.normal(20, 3, len(user)) % 24  # evenings, mostly
    starts = _START_SECONDS + (day * 24 + hour) * 3600

    session = first_session[user_idx] + (rng.random(len(user_idx)) * n_sessions[user_idx]).astype(np.int64)
    order = np.argsort(session + rng.random(len(session)))  # by session, shuffled inside it
    session = session[order]
    elapsed = np.cumsum(8 + rng.exponential(35, len(session)))
    opening = np.flatnonzero(np.diff(session, prepend=-1))
    elapsed -= np.repeat(elapsed[opening], np.diff(opening, append=len(session)))
    rated_at = np.empty(len(session), np.int64)
    rated_at[order] = (starts[session] + elapsed).astype(np.int64) * 1000
    return rated_at
