"""Maps of the live versions, computed after they went live."""

import logging
import time
from concurrent.futures import Future
from threading import Thread

from sqlalchemy import Engine

from jobs.progress import say
from recsys.analysis.maps import ItemMap
from recsys.database.engine import reading
from recsys.database.maps import StoredMap, has_map, store_map
from recsys.database.models import live_numbers
from recsys.database.publications import previously_published
from recsys.database.work import Guard
from recsys.errors import LockedError
from recsys.library.views import read_view, stored_item_map
from recsys.results import Objective
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

    computed: dict[Objective, Future[tuple[ItemMap, float]]] = {objective: Future() for objective in missing}

    def compute(objective: Objective) -> None:
        started = time.perf_counter()
        try:
            with reading(engine) as connection:
                view = read_view(connection, missing[objective], read_catalogue(connection), with_map=False)
                earlier = None
                for before in previously_published(connection, objective)[:1]:
                    earlier = stored_item_map(connection, before)
            computed[objective].set_result((view.compute_map(earlier), time.perf_counter() - started))
        except Exception as error:
            computed[objective].set_exception(error)

    # t-SNE computes outside of Python and on one core, so that every machine gets the same map: one thread for each.
    # They do not keep a process alive that is told to stop.
    for objective in missing:
        Thread(target=compute, args=(objective,), daemon=True).start()
    for objective, number in missing.items():
        found, seconds = computed[objective].result()
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
