"""Vectors, metadata and map of the items as files for other tools."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.analysis.view import ModelView
from recsys.errors import InputError

PARQUET, VECTORS, METADATA = "items.parquet", "vectors.tsv", "metadata.tsv"


def export_items(view: ModelView, folder: Path) -> list[Path]:
    """Write the items of a version to a folder.

    - `items.parquet`: one row per item: id, title, categories, numbers, `vector` (list of float32), and the map in
      `projection_x` and `projection_y`. Apple's Embedding Atlas opens it:
      `embedding-atlas items.parquet --text title --x projection_x --y projection_y`.
    - `vectors.tsv` and `metadata.tsv`: the pair that the TensorFlow Embedding Projector loads.

    Returns:
        The paths of the files.

    Raises:
        InputError: the folder cannot be written.
    """
    table, vectors = view.table.items(n_components=2), view.embeddings
    flat = pa.array(vectors.ravel())
    columns = {name: pa.array(table[name].tolist()) for name in table.columns if name != "categories"}
    columns["categories"] = pa.array([list(names) for names in table.categories], pa.list_(pa.string()))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    columns["projection_x"], columns["projection_y"] = pa.array(view.map.xy[:, 0]), pa.array(view.map.xy[:, 1])
    # The projector's files have no quotes, so that no value may hold a tab or a line break.
    metadata = pd.DataFrame(
        {
            "title": table.title,
            "item_id": table.item_id,
            "categories": [", ".join(names) for names in table.categories],
            "n_ratings": table.n_ratings,
            "cluster": table.cluster,
        }
    ).replace(r"[\t\r\n]+", " ", regex=True)
    paths = [folder / name for name in (PARQUET, VECTORS, METADATA)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), paths[0])
        rows = ("\t".join(f"{value:.6g}" for value in vector) for vector in vectors.tolist())
        paths[1].write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        lines = ["\t".join(map(str, row)) for row in metadata.itertuples(index=False)]
        paths[2].write_text("\n".join(["\t".join(metadata.columns), *lines]) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): name another folder") from error
    return paths
