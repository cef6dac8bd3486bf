"""Every error this library raises on purpose.

    RecsysError                 something to tell the caller; never a bug of ours
    ├── MissingExtraError       a package of an optional extra is not installed
    ├── InputError              a file, a row, an argument or a setting is wrong
    │   ├── UsageError          the options of a command do not fit
    │   └── MostlyBadError      more rows of a file were rejected than kept: refused whole
    ├── NotFoundError           an item, user or model version that does not exist
    ├── NoModelError            nothing is live yet
    ├── DatabaseError           the database cannot be reached or has another schema
    ├── DamagedVersionError     what is stored of a model version is not what was written
    ├── OverloadedError         more is being asked than can be answered now
    ├── TooLargeError           a request's body is larger than the limit
    ├── MediaTypeError          a request's body is of a kind that is not read
    ├── UnauthorizedError       no key came with a request, or one that is not in force
    ├── ForbiddenError          a key may not do what was asked
    ├── TooManyError            one client sent more requests than its limit allows
    ├── LockedError             another process holds the lease of this job
    ├── GateRefusedError        a version that the publish gate refused, without force
    ├── LiveChangedError        another version went live than the one that was compared with
    └── TrainingError           training cannot start or did not converge
        ├── DivergedError       the loss of a training rose or is not finite
        └── NothingToTrainError  the feedback has nothing that this objective could learn

The message names the thing, what was expected and the fix, in one line. `status` is the HTTP
status that `api.problems` answers with, `exit_code` what the command line ends with.
"""

from collections.abc import Sequence


class RecsysError(Exception):
    """Base of everything raised on purpose.

    >>> try:                                                            # doctest: +SKIP
    ...     learner = Learner.fit("ratings.csv")
    ... except RecsysError as error:
    ...     print(error)
    """

    status = 500
    exit_code = 1
    title = "The request could not be served"

    @property
    def public(self) -> str:
        """Return the message for clients of the API."""
        return str(self)


class MissingExtraError(RecsysError):
    """A module that an extra of the package installs is missing; the message names both."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed: install recsys[{extra}] (pip install 'recsys[{extra}]')")


class InputError(RecsysError):
    """A file, row, argument or setting is wrong; the message names it, what was expected, and the fix.

    >>> load_ratings("missing.csv")                                     # doctest: +SKIP
    InputError: missing.csv: there is no such file
    """

    status = 422
    title = "The request is not valid"


class UsageError(InputError):
    """Options of a command do not fit; the message names them and what was expected."""

    exit_code = 2


class MostlyBadError(InputError):
    """Most rows of a file were rejected, so the file was refused whole."""


class NotFoundError(RecsysError):
    """The named item, user or model version does not exist.

    >>> learner.similar("no such item")                                 # doctest: +SKIP
    NotFoundError: there is no item 'no such item': …
    """

    status = 404
    title = "Not found"


class NoModelError(RecsysError):
    """No model version is live that could answer; the message says what to run."""

    status = 503
    title = "No model is live"


class DatabaseError(RecsysError):
    """The database cannot be reached, or its schema is not the one this version needs.

    Args:
        message: for operators; it may name the host, the file and the user of the database.
        public: for clients of the API; it names none of them.
    """

    status = 503
    title = "The database is not available"

    def __init__(self, message: str, public: str = "the database is not available: try again in a moment") -> None:
        super().__init__(message)
        self._public = public

    @property
    def public(self) -> str:
        """The message for clients of the API."""
        return self._public


class DamagedVersionError(RecsysError):
    """What is stored of a model version is not what was written; the message names the version and the damage."""

    status = 503
    title = "A model version is damaged"


class OverloadedError(RecsysError):
    """More is being asked than can be answered now; the same request may go through in a moment."""

    status = 503
    title = "Too many requests"


class TooLargeError(RecsysError):
    """The body of a request is larger than the limit."""

    status = 413
    title = "The body is too large"


class MediaTypeError(RecsysError):
    """The body of a request is not JSON, or does not say that it is."""

    status = 415
    title = "The body is not JSON"


class UnauthorizedError(RecsysError):
    """A key is needed, and none came, or one that is not in force."""

    status = 401
    title = "A key is needed"


class ForbiddenError(RecsysError):
    """The key is in force, but may not do this."""

    status = 403
    title = "The key may not do this"


class TooManyError(RecsysError):
    """More requests came from one key, user or address than its limit allows.

    Args:
        seconds: until requests are answered again.
        headers: of the answer.
    """

    status = 429
    title = "Too many requests of one client"

    def __init__(self, message: str, seconds: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.seconds, self.headers = seconds, headers


class LockedError(RecsysError):
    """Another process is running this job."""

    status = 409
    exit_code = 3
    title = "Another run holds the lease"


class GateRefusedError(RecsysError):
    """The publish gate refused this version; publishing it all the same needs force and a reason."""

    status = 409
    title = "The publish gate refused this version"


class LiveChangedError(RecsysError):
    """Another version went live while this one was being compared with its predecessor."""

    status = 409
    title = "Another version went live"


class TrainingError(RecsysError):
    """Training cannot start (too few ratings, no such device) or did not converge.

    >>> Learner.fit(data, device="cuda")                                # doctest: +SKIP
    TrainingError: device cuda: no CUDA device can be used here; …
    """


class DivergedError(TrainingError):
    """The loss of a training rose, or is not a finite number.

    Args:
        epoch: in which it was seen, from 1.
        loss: mean of that epoch so far.
    """

    def __init__(self, message: str, epoch: int, loss: float) -> None:
        super().__init__(message)
        self.epoch, self.loss = epoch, loss


class NothingToTrainError(TrainingError):
    """The feedback has nothing that this objective could learn, as of events a model of ratings; the others go on."""
