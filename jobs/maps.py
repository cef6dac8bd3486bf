"""Maps of the live versions, computed after they went live."""

import logging
import time

from sqlalchemy import Engine

from jobs.progress import say
from recsys.database.engine import reading
from recsys.database.maps import StoredMap, has_map, store_map
from recsys.database.models import live_numbers, previously_published
from recsys.database.work import Guard
from recsys.errors import LockedError
from recsys.library.views import read_view, stored_item_map
from recsys.serving.catalogue import read_catalogue

_log = logging.getLogger(__name__)


def map_live(engine: Engine, guard: Guard | None = None, *, again: bool = False) -> list[int]:
    """Compute and store the map of each live version that has none.

    A map starts from the map of the version that was live before, and is turned to fit it.

    Args:
        guard: called in every transaction before it commits.
        again: compute maps anew.

    Returns:
        The numbers of the versions that were mapped.
    """
    with reading(engine) as connection:
        numbers = live_numbers(connection)
        missing = {o: number for o, number in numbers.items() if again or not has_map(connection, number)}
    for objective, number in missing.items():
        started = time.perf_counter()
        with reading(engine) as connection:
            view = read_view(connection, number, read_catalogue(connection), with_map=False)
            earlier = None
            for before in previously_published(connection, objective)[:1]:
                earlier = stored_item_map(connection, before)
        found = view.compute_map(earlier)
        seconds = time.perf_counter() - started
        store_map(engine, number, StoredMap(found.method, found.xy, found.clusters), seconds, guard)
        say(f"{objective}: mapped the {len(found.xy):,} items of version {number} in {seconds:.0f} s")
    return list(missing.values())


def try_map_live(engine: Engine, guard: Guard | None = None) -> None:
    """Compute the missing maps of live versions; an error is logged, since versions are whole without a map.

    Raises:
        LockedError: the lease was lost.
    """
    try:
        map_live(engine, guard)
    except LockedError:
        raise
    except Exception:
        _log.exception("the map of the items could not be computed")
