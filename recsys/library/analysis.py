"""Tables and figures of a `Learner`: those of `recsys.analysis`, and those that need its users."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from recsys.analysis import charts
from recsys.analysis.export import export_items
from recsys.analysis.plots import Plots
from recsys.analysis.tables import Tables
from recsys.analysis.view import ModelView
from recsys.serving.parts import parts_of

if TYPE_CHECKING:
    from recsys.learner import Learner


class LearnerTables(Tables):
    """The tables of a learner.

    >>> learner.table.items().nlargest(10, "bias")                      # doctest: +SKIP
    """

    def __init__(self, view: ModelView, learner: "Learner") -> None:
        super().__init__(view)
        self._learner = learner

    def user(self, user_id: str) -> pd.DataFrame:
        """Return the ratings of a user, the highest first: `item_id`, `title`, `rating`, `mean_rating`."""
        users, items = self._learner.users, self._learner.catalogue
        rated = users.rated(user_id)
        stored = [items.items[idx] for idx in rated.item_idx.tolist()]
        table = pd.DataFrame(
            {
                "item_id": [item.item_id for item in stored],
                "title": [item.title or item.item_id for item in stored],
                "rating": rated.ratings,
                "mean_rating": items.mean_rating[rated.item_idx],
            }
        )
        return table.sort_values("rating", ascending=False, kind="stable", ignore_index=True)

    def users(self, n_users: int = 1000, n: int = 10) -> pd.DataFrame:
        """Return some users with their places on the map of the items; see `Tables.users`, and `user_id`."""
        table = super().users(n_users, n)
        table.insert(0, "user_id", [self._learner.data.user_ids[key] for key in table.index.tolist()])
        return table

    def export(self, folder: str | Path) -> list[Path]:
        """Write vectors, metadata and map of the items to a folder; see `recsys.analysis.export`.

        Raises:
            InputError: the folder cannot be written.
        """
        return export_items(self._view, Path(folder))

    def explanation(self, user_id: str, rank: int = 1) -> pd.DataFrame:
        """Return the exact parts of the score of one item of a user's list: `part`, `value`; they add up to the score.

        Args:
            rank: place of the item in the list, from 1.
        """
        listed = self._learner.explain(user_id, rank).items[rank - 1]
        return pd.DataFrame(parts_of(listed.explanation), columns=["part", "value"])


class LearnerPlots(Plots):
    """The figures of a learner.

    >>> learner.plot.map(colour="category:Drama")                       # doctest: +SKIP
    """

    def __init__(self, view: ModelView, learner: "Learner") -> None:
        super().__init__(view)
        self._learner = learner

    def users(self, n_users: int = 1000, names: Mapping[int, str] | None = None) -> go.Figure:
        """Draw some users over the map of the items, each amid the items of their list; see `Tables.users`."""
        return super().users(n_users, self._learner.data.user_ids if names is None else names)

    def explanation(self, user_id: str, rank: int = 1) -> go.Figure:
        """Draw the exact parts of the score of one item of a user's list.

        Args:
            rank: place of the item in the list, from 1.
        """
        listed = self._learner.explain(user_id, rank).items[rank - 1]
        return charts.explanation_bars(parts_of(listed.explanation), listed.score)
