"""Fold-in: solve the vector of a user from ratings that a model version has not seen. numpy only."""

from recsys.scoring.fold_in.ranking import DEFAULT_RIDGE
from recsys.scoring.fold_in.solve import FoldedUser, FoldIn

__all__ = ["DEFAULT_RIDGE", "FoldIn", "FoldedUser"]
