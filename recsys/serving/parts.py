"""The parts of a score, by name."""

from recsys.results import Explanation


def parts_of(explanation: Explanation | None) -> list[tuple[str, float]]:
    """Return the parts of a score that add up to it: (name, value); nothing for a list of popularity.

    Of the dot product and the weights between items, the ratings that add most stand alone, the user's other ratings
    together, and what else the model learned of the user.
    """
    if explanation is None:
        return []
    named = [(entry.title or entry.item_id, entry.contribution) for entry in explanation.contributions]
    others = explanation.all_contributions - sum(value for _, value in named)
    learned = explanation.dot_product + explanation.item_weights - explanation.all_contributions
    parts = [
        ("all items and users", explanation.global_bias),
        ("the user", explanation.user_bias),
        ("the item", explanation.item_bias),
        *((f"rated {name}", value) for name, value in named),
        ("the user's other ratings", others),
        ("learned beyond the ratings", learned),
        ("layers", explanation.layers),
    ]
    return [(name, value) for name, value in parts if abs(value) > 1e-9]
