"""Which names of the service are answered, so that a web page cannot reach it under a name of its own (DNS rebinding).

A page at `http://evil.example` whose name suddenly resolves to 127.0.0.1 is of the same origin as a service there. The
browser would let it read every answer of a service without keys. It cannot change the Host header, though.
"""

import ipaddress
from collections.abc import Callable, Sequence

from starlette.types import Scope

MAX_KNOWN = 100

DETAIL = (
    "the service does not answer under this name: use localhost, create a key with `recsys keys create`, or name it in "
    "RECSYS_ALLOWED_HOSTS"
)


class HostRule:
    """Decides by the Host header whether a request is answered.

    Args:
        allowed: names of the service; empty: a service without keys on a loopback address answers under the names of
            such an address only, and all others under every name.
        is_open: whether requests need no key.
    """

    def __init__(self, allowed: Sequence[str], is_open: Callable[[], bool]) -> None:
        self._allowed = frozenset(name_of(name.encode()) for name in allowed)
        self._is_open = is_open
        self._known: set[bytes] = set()

    def allows(self, scope: Scope, host: bytes) -> bool:
        """Return whether to answer a request with this Host header."""
        if host in self._known:
            return True
        if not self._allowed and not (self._is_open() and is_loopback(scope)):
            return True
        name = name_of(host)
        if name not in self._allowed and not is_local(name):
            return False
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)
        return True


def name_of(host: bytes) -> str:
    """Return the name in a Host header, without the port.

    >>> name_of(b"Shop.example:8000"), name_of(b"[::1]:8000"), name_of(b"::1")
    ('shop.example', '[::1]', '[::1]')
    """
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    if text.count(":") > 1:  # an address in a setting
        return f"[{text}]"
    return text.partition(":")[0].removesuffix(".")


def is_local(name: str) -> bool:
    """Return whether a name means this machine wherever it is looked up, so that no page can have it."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_loopback(scope: Scope) -> bool:
    """Return whether a request came to a loopback address."""
    address, *_ = scope.get("server") or ("",)
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
