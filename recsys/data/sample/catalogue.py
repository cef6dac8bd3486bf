"""The catalogue of the generated sample: items, their titles, and what decides who rates them."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.rows import ItemRow
from recsys.data.sample.words import GENRES, PATTERN_SHARE, PATTERNS, PEOPLE, PLACES, PLAIN

FIRST_YEAR = 2022
"""Year of the first ratings: no item is newer."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items and the numbers that decide who rates them and how.

    Attributes:
        items: (n_items,) the items.
        loading: (n_items, n_tastes) share of each genre, and the age.
        quality: (n_items,) stars above or below the average.
        log_weight: (n_items,) logarithm of the popularity with all users.
    """

    items: list[ItemRow]
    loading: NDArray[np.float32]
    quality: NDArray[np.float32]
    log_weight: NDArray[np.float64]


def make_ids(letter: str, n: int) -> list[str]:
    """Return n external ids such as `u0001`, all of one length."""
    width = max(4, len(str(n)))
    return [f"{letter}{number:0{width}}" for number in range(1, n + 1)]


def draw_catalogue(rng: np.random.Generator, n_items: int) -> Catalogue:
    """Draw items with genres, years, titles, quality and popularity."""
    genres = list(GENRES)
    share = np.array([GENRES[genre][0] for genre in genres])
    main = rng.choice(len(genres), size=n_items, p=share / share.sum())
    kin = np.array([[genres.index(name) for name in GENRES[genre][1].split(", ")] for genre in genres])
    second, third = np.argsort(rng.random((n_items, 3)), axis=1)[:, :2].T
    n_genres = 1 + (rng.random(n_items) < 0.6) + (rng.random(n_items) < 0.3)
    item_genres = np.stack([main, kin[main, second], kin[main, third]], axis=1)  # (n_items, 3)
    year = FIRST_YEAR - 1 - np.minimum(rng.exponential(18, n_items).astype(np.int64), 93)

    loading = np.zeros((n_items, len(genres) + 1), np.float32)
    for rank_of_genre, strength in enumerate((1.0, 0.7, 0.5)):
        has = np.flatnonzero(rank_of_genre < n_genres)
        loading[has, item_genres[has, rank_of_genre]] = strength
    loading /= np.linalg.norm(loading, axis=1, keepdims=True)
    loading[:, -1] = np.clip((year - FIRST_YEAR + 18) / 20, -2, 1)
    loading += rng.normal(0, 0.08, loading.shape).astype(np.float32)

    quality = rng.normal(0, 0.42, n_items)
    # Good items tend to be better known. Zipf's law with a flat head (Mandelbrot), as in real rating logs.
    rank = np.argsort(np.argsort(-(quality + rng.normal(0, 0.8, n_items))))
    log_weight = -1.0 * np.log(45 + rank) - rank / (0.35 * n_items)
    titles = draw_titles(rng, [genres[genre] for genre in main], year)
    items = [
        ItemRow(item_id, titles[i], tuple(genres[genre] for genre in item_genres[i, : n_genres[i]]), int(year[i]))
        for i, item_id in enumerate(make_ids("i", n_items))
    ]
    return Catalogue(items, loading, quality.astype(np.float32), log_weight)


def draw_titles(rng: np.random.Generator, genres: list[str], year: NDArray[np.int64]) -> list[str]:
    """Draw distinct titles from the words of each main genre; a repeated title becomes a sequel."""
    n = len(genres)
    pattern = rng.choice(len(PATTERNS), size=n, p=PATTERN_SHARE)
    draw = rng.integers(0, 2**31, size=(n, 6))
    places, people, plain_words = PLACES.split(), PEOPLE.split(), PLAIN.split()
    plain = rng.random(n) < 0.4
    titles = [""] * n
    parts: dict[str, int] = {}
    # In the order of the years: a sequel is not older than the first part.
    for i in np.argsort(year, kind="stable").tolist():
        _, _, adjectives, nouns = GENRES[genres[i]]
        adjective, noun = (plain_words if plain[i] else adjectives.split()), nouns.split()
        first = int(draw[i, 1]) % len(noun)
        title = PATTERNS[pattern[i]].format(
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
