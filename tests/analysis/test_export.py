"""Files for other tools hold every item with its vector, metadata and place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.analysis.export import export_items
from recsys.errors import InputError
from tests.analysis.planted import view


def test_rows_are_those_of_the_items(tmp_path: Path) -> None:
    made = view().with_plane()
    made = replace(made, items=replace(made.items, titles=["Tab\there\n", *made.items.titles[1:]]))
    parquet, vectors, metadata = export_items(made, tmp_path / "out")
    table = pq.read_table(parquet)
    assert table["item_id"].to_pylist() == list(made.items.item_ids)
    assert table["categories"][200].as_py() == ["War"]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), made.factors.embeddings)
    np.testing.assert_array_equal(table["projection_x"].to_numpy(), made.map.xy[:, 0])
    lines = metadata.read_text().splitlines()
    assert lines[0] == "title\titem_id\tcategories\tn_ratings\tcluster"
    assert lines[1].startswith("Tab here\ti0\tDrama\t20\t")
    np.testing.assert_allclose(np.loadtxt(vectors, delimiter="\t"), made.factors.embeddings, atol=1e-6)
    assert len(lines) == 241


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="name another folder"):
        export_items(view().with_plane(), tmp_path / "out")
