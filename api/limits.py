"""Limits of the rate of requests, for each key, token user or address."""

import os
from math import ceil
from time import time

from limits import parse

from api.counts import SharedCounts
from recsys.errors import TooManyError
from recsys.settings import RATE_COUNTS


class RateLimits:
    """Counts requests in fixed windows, together with the other server processes of the machine.

    Args:
        text: such as `600/minute`.
        counts: by default those that `recsys serve` shares between its processes.
    """

    def __init__(self, text: str, counts: SharedCounts | None = None) -> None:
        item = parse(text)
        self._counts = counts or SharedCounts(os.environ.get(RATE_COUNTS))
        self._seconds, self._n = item.get_expiry(), item.amount
        self._policy = f'"requests";q={self._n};w={self._seconds}'.encode()

    def count(self, who: str) -> list[tuple[bytes, bytes]]:
        """Count a request, and return the headers of its answer (draft-ietf-httpapi-ratelimit-headers-10).

        Args:
            who: a key, the user of a token, or an address.

        Raises:
            TooManyError: there were too many in this window.
        """
        n, ends_at = self._counts.add(who, self._seconds)
        seconds = max(1, ceil(ends_at - time()))
        left = max(0, self._n - n)
        headers = [(b"ratelimit-policy", self._policy), (b"ratelimit", b'"requests";r=%d;t=%d' % (left, seconds))]
        if n > self._n:
            raise TooManyError(
                f"more than {self._n} requests in {self._seconds} seconds: send this one again in {seconds} seconds",
                seconds,
                headers,
            )
        return headers
