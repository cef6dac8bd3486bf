"""Settings of a training from `--set` and `recsys.toml`."""

from pathlib import Path

import pytest

from jobs.overrides import read_overrides
from recsys.errors import InputError


def test_the_option_wins_over_the_file_and_the_table_of_an_objective_over_the_common_one(tmp_path: Path) -> None:
    file = tmp_path / "recsys.toml"
    file.write_text("[train]\nweight_decay = 1\nn_epochs = 3\n[train.rating]\nn_epochs = 5\nhidden = [64, 32]\n")
    assert read_overrides("ranking", (), file) == {"weight_decay": 1, "n_epochs": 3}
    assert read_overrides("rating", ["weight_decay=0.3,implicit=false", "hidden=8x4"], file) == {
        "weight_decay": 0.3,
        "n_epochs": 5,
        "implicit": False,
        "hidden": [8, 4],
    }
    assert read_overrides("ranking", (), tmp_path / "none.toml") == {}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("weight_decay", "expected NAME=VALUE"),
        ("weightdecay=1", "there is no such setting: expected one of n_factors"),
        ("objective=rating", "there is no such setting"),
        ("n_epochs=2.5", "expected a whole number"),
        ("weight_decay=much", "expected a number"),
        ("implicit=1", "expected true or false"),
    ],
)
def test_what_cannot_be_set_is_named(pair: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_overrides("ranking", [pair], tmp_path / "none.toml")
    (tmp_path / "recsys.toml").write_text("[train\n")
    with pytest.raises(InputError, match="not TOML"):
        read_overrides("ranking", (), tmp_path / "recsys.toml")
