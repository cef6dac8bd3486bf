"""A lock on an open file, between processes."""

import errno
import fcntl

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def lock_file(descriptor: int, *, wait: bool) -> None:
    """Lock a file until its descriptor is closed; do nothing on a file system without locks.

    Args:
        descriptor: of a file that is open for writing, as network file systems want it.
        wait: whether to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
