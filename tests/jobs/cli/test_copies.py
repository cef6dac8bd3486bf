"""`recsys export`, `backup`, `restore` and `erase-user` as a person runs them."""

from pathlib import Path

import pytest

from tests.jobs.cli.test_main import Recsys


@pytest.fixture
def recsys(tmp_path: Path) -> Recsys:
    command = Recsys(tmp_path, f"sqlite:///{tmp_path / 'shop.db'}")
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nu,a,4\nu,b,2\nv,a,5\n")
    command("load", "ratings.csv")
    return command


def test_a_user_who_was_erased_after_a_backup_stays_erased(recsys: Recsys, tmp_path: Path) -> None:
    assert recsys.json("backup", "b.zip")["rows"] == {"users": 2, "items": 2, "ratings": 3, "models": 0}
    assert recsys.json("erase-user", "v")["journal"] == str(tmp_path / "shop.db.erasures")
    assert "there is no user 'v'" in recsys("erase-user", "v", code=1)
    assert "--replace" in recsys("restore", "b.zip", code=2)
    restored = recsys.json("restore", "b.zip", "--replace", "--verify")
    assert (restored["verified"], restored["erased_again"]) == (True, 1)
    recsys("export", "--format", "csv")
    assert (tmp_path / "export" / "ratings.csv").read_text().count("\n") == 3
    other = Recsys(tmp_path, f"sqlite:///{tmp_path / 'other.db'}")
    assert other.json("load", "export")["inserted"] == 2
    said = recsys("restore", "ratings.csv", code=1)
    assert "is not a backup: expected a file that `recsys backup` wrote" in said
    assert "expected any of ratings, users" in " ".join(
        recsys("export", "everything", code=2).replace("│", " ").split()
    )
