"""Limits of the rate of requests, for each key, token user or address."""

import os
from math import ceil
from time import time

from limits import parse
from limits.storage import MemoryStorage

from recsys.errors import TooManyError
from recsys.settings import WORKERS


class RateLimits:
    """Counts requests in fixed windows.

    A process counts for itself: it allows its share of the limit, since connections are spread over the processes.

    Args:
        text: such as `600/minute`.
        n_workers: processes of this machine; by default those that `recsys serve` starts.
    """

    def __init__(self, text: str, n_workers: int | None = None) -> None:
        item = parse(text)
        share = n_workers or int(os.environ.get(WORKERS) or 1)
        self._storage = MemoryStorage()
        self._seconds = item.get_expiry()
        self._n = max(1, item.amount // share)
        self._policy = f'"requests";q={self._n};w={self._seconds}'.encode()

    def count(self, who: str) -> list[tuple[bytes, bytes]]:
        """Count a request, and return the headers of its answer (draft-ietf-httpapi-ratelimit-headers-10).

        Args:
            who: a key, the user of a token, or an address.

        Raises:
            TooManyError: there were too many in this window.
        """
        n = self._storage.incr(who, self._seconds)
        seconds = max(1, ceil(self._storage.get_expiry(who) - time()))
        left = max(0, self._n - n)
        headers = [(b"ratelimit-policy", self._policy), (b"ratelimit", b'"requests";r=%d;t=%d' % (left, seconds))]
        if n > self._n:
            raise TooManyError(
                f"more than {self._n} requests in {self._seconds} seconds: send this one again in {seconds} seconds",
                seconds,
                headers,
            )
        return headers
