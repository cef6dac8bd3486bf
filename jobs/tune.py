"""Ratings in the database → a config that trains better models than the default one, for `train` and `nightly`."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from jobs.progress import progress, say
from jobs.training_data import Validation, hold_out_validation, rating_scale, ratings_to_train_on
from jobs.tune_report import Confirmation, ResetReport, TuneReport, format_metric, trial_report, tuning_document
from recsys.data.dataset import Ratings
from recsys.database.engine import reading, writing
from recsys.database.leases import TUNING, Lease, lease
from recsys.database.trials import StoredTrial, Study, delete_trials, read_trials, record_trial
from recsys.database.tuned import Tuned, delete_tuned, keep_tuned, read_tuned
from recsys.evaluation.gate import usable_scale
from recsys.evaluation.splits import hold_out
from recsys.extras import require_extra
from recsys.results import Architecture, Objective
from recsys.settings import Settings
from recsys.training.config import Config, config_for
from recsys.training.tune import (
    Parameters,
    Trial,
    best_trial,
    defaults,
    run_trial,
    run_trials,
    search_space,
    with_parameters,
)

MINUTES = 10.0
"""Time limit of a search if neither a time nor a number of trials is given."""


@dataclass(frozen=True, slots=True)
class Search:
    """Everything that the trials of one search share.

    Attributes:
        study: identifies the search in the database.
        config: the defaults.
        validation: the ratings of the trials.
        further_back: the ratings of the confirmation, held out of the training set of the trials.
        scale: rating scale for training.
        stored: the tuned config before this search, if any.
    """

    study: Study
    config: Config
    validation: Validation
    further_back: Validation
    scale: tuple[float, float] | None
    stored: Tuned | None
    device: str
    seed: int

    def parameters_in_use(self) -> list[Parameters]:
        """Return the tuned config to try again, if it was found on other ratings: its successor must be better."""
        if self.stored is None or self.stored.study == self.study.digest:
            return []
        if not self.stored.applies_to(self.study.n_ratings):
            return []
        parameters = defaults(self.config)
        return [{field: self.stored.parameters.get(field, default) for field, default in parameters.items()}]

    def confirm(self, parameters: Parameters) -> Confirmation:
        """Train with the defaults and with `parameters` on other ratings and with another seed, and compare."""
        say(f"{self.study.objective}: testing the best trial on {self.further_back.n_held_out:,} ratings further back")
        default, best = (
            run_trial(
                self.further_back.training_set,
                with_parameters(self.config, chosen),
                chosen,
                self.further_back.measure,
                self.scale,
                self.device,
                self.seed + 1,
            )
            for chosen in (defaults(self.config), parameters)
        )
        is_better = best.value is not None and self.best([default, best]) is best
        return Confirmation(default=default.value, best=best.value, confirmed=is_better)

    def best(self, trials: Sequence[Trial]) -> Trial:
        """Return the trial with the best value."""
        return best_trial(trials, self.validation.higher_is_better)

    def keeps_stored(self, trials: Sequence[Trial]) -> bool:
        """Return whether the tuned config stays in use if no trial replaces it: unless the defaults do better now."""
        if self.stored is None or not self.stored.applies_to(self.study.n_ratings):
            return False
        again = next((trial for trial in trials if trial.parameters in self.parameters_in_use()), None)
        if self.stored.study == self.study.digest or again is None:
            return True
        return again.value is not None and self.best([trials[0], again]) is again


def tune(
    engine: Engine,
    settings: Settings,
    objective: Objective,
    out: Path | None = None,
    *,
    architecture: Architecture = "dot",
    minutes: float | None = None,
    n_trials: int | None = None,
    fresh: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> TuneReport:
    """Train with configs around the default one, and keep the best for `train` if it is better.

    The best of many trials on the same ratings is often best by chance. So it must be better once more: trained
    without the validation part, measured on a part held out of the rest, further back in time, and with another seed.

    A call on the same ratings, with the same defaults and seed as an earlier one, continues it; each trial is recorded
    when it is done. The validation part is held out of the training set of `train`, by the same split, so that the
    ratings of the gate do not influence the config.

    Args:
        out: file to write the plot to, as an HTML page.
        minutes: a trial starts only while the median one still fits. `None`: no limit if `n_trials` is given, else
            `MINUTES`.
        n_trials: number of trials, those of earlier calls included.
        fresh: delete the trials of earlier calls first.

    Raises:
        InputError: `out` cannot be written.
        LockedError: another process is tuning.
        TrainingError: there are too few ratings, or every training diverged.
    """
    started = time.perf_counter()
    if out is not None:
        require_extra("report")
    if minutes is None and n_trials is None:
        minutes = MINUTES
    with lease(engine, TUNING, settings.lease_seconds) as held:
        search = prepare_search(engine, settings, objective, architecture, device, seed)
        if fresh:
            with writing(engine) as connection:
                held.guard(connection)
                delete_trials(connection, search.study.digest)
        with reading(engine) as connection:
            stored_trials = read_trials(connection, search.study.digest)
        earlier = [Trial(trial.parameters, trial.value, trial.seconds) for trial in stored_trials]
        say(
            f"{objective}: trainings on {search.validation.training_set.n_ratings:,} ratings, each measured on "
            f"{search.validation.n_held_out:,} held-out ratings; {len(earlier)} trials are done already"
        )
        trials = record_trials(engine, held, search, earlier, minutes, n_trials)
        best = search.best(trials)
        is_known = search.stored is not None and (search.stored.study, search.stored.parameters) == (
            search.study.digest,
            best.parameters,
        )
        confirmation = None if best is trials[0] or is_known else search.confirm(best.parameters)
        in_use = store_outcome(engine, held, search, trials, confirmation)
    report = TuneReport(
        objective=objective,
        architecture=architecture,
        metric=search.study.metric,
        higher_is_better=search.validation.higher_is_better,
        default=trial_report(trials[0]),
        best=trial_report(best),
        confirmation=confirmation,
        in_use=in_use,
        trials=[trial_report(trial) for trial in trials],
        n_earlier=len(earlier),
        n_diverged=sum(trial.value is None for trial in trials),
        n_ratings=search.study.n_ratings,
        plot=None if out is None else str(out),
        seconds=round(time.perf_counter() - started, 3),
    )
    if out is not None:
        from recsys.analysis import page

        page.write(out, tuning_document(report))
    return report


def prepare_search(
    engine: Engine, settings: Settings, objective: Objective, architecture: Architecture, device: str, seed: int
) -> Search:
    """Read the ratings, and hold out what the trials and the confirmation are measured on.

    Raises:
        TrainingError: there are too few ratings.
    """
    with reading(engine) as connection:
        ratings = ratings_to_train_on(connection, objective, settings)
        stored = read_tuned(connection, objective, architecture)
    scale = rating_scale(ratings, settings)
    config = config_for(
        objective, architecture, ratings.n_ratings, ratings.n_users, ratings.effective_items(), tuned={}
    )
    validation = hold_out_validation(ratings.select(~hold_out(ratings)).compact(), objective, scale)
    further_back = hold_out_validation(validation.training_set, objective, scale, turn=2)
    study = Study(
        digest=study_digest(ratings, config, scale, seed),
        objective=objective,
        architecture=architecture,
        data_fingerprint=ratings.fingerprint(),
        n_ratings=ratings.n_ratings,
        metric=validation.metric,
    )
    return Search(study, config, validation, further_back, usable_scale(scale), stored, device, seed)


def study_digest(ratings: Ratings, config: Config, scale: tuple[float, float], seed: int) -> str:
    """Return a digest of everything that two equal trials have in common."""
    space = {field: asdict(values) for field, values in search_space(config).items()}
    identity = json.dumps([ratings.fingerprint(), config.as_record(), space, scale, seed], sort_keys=True)
    return blake2b(identity.encode(), digest_size=16).hexdigest()


def record_trials(
    engine: Engine,
    held: Lease,
    search: Search,
    earlier: Sequence[Trial],
    minutes: float | None,
    n_trials: int | None,
) -> list[Trial]:
    """Run trials until the time or their number is used up, and store each when it is done. Returns all of them.

    Raises:
        LockedError: the lease was lost to another process.
    """

    def on_epoch(n_epochs: int) -> None:
        held.check()
        forward(n_epochs)

    trials = list(earlier)
    n_left = n_trials - len(earlier) if n_trials is not None else 0
    with progress(f"tuning {search.study.objective}", max(n_left if minutes is None else minutes * 60, 0)) as advance:
        forward = clocked(advance) if minutes is not None else lambda n_epochs: advance(1 / n_epochs)
        for trial in run_trials(
            search.validation.training_set,
            search.config,
            search.validation.measure,
            earlier,
            higher_is_better=search.validation.higher_is_better,
            also=search.parameters_in_use(),
            n_trials=n_trials,
            seconds=None if minutes is None else minutes * 60,
            rating_scale=search.scale,
            device=search.device,
            seed=search.seed,
            on_epoch=on_epoch,
        ):
            with writing(engine) as connection:
                held.guard(connection)
                record_trial(connection, search.study, StoredTrial(trial.parameters, trial.value, trial.seconds))
            trials.append(trial)
            say_trial(trials, search)
    return trials


def clocked(advance: Callable[[float], None]) -> Callable[[int], None]:
    """Return a function that advances a bar by the seconds since its last call."""
    last = time.perf_counter()

    def on_epoch(_n_epochs: int) -> None:
        nonlocal last
        now = time.perf_counter()
        advance(now - last)
        last = now

    return on_epoch


def say_trial(trials: Sequence[Trial], search: Search) -> None:
    """Print one line about the last trial."""
    trial = trials[-1]
    measured = [other for other in trials if other.value is not None]
    is_best = trial.value is not None and len(trials) > 1 and search.best(measured) is trial
    say(
        f"trial {len(trials)}: {search.study.metric} {format_metric(trial.value)} after {trial.seconds:.1f} s"
        + (", the best so far" if is_best else "")
    )


def store_outcome(
    engine: Engine, held: Lease, search: Search, trials: Sequence[Trial], confirmation: Confirmation | None
) -> Literal["best", "default", "earlier"]:
    """Store the best parameters as the tuned config, keep the one before, or delete it; return what is in use now.

    Raises:
        LockedError: the lease was lost to another process.
    """
    objective, architecture = search.study.objective, search.study.architecture
    best = search.best(trials)
    with writing(engine) as connection:
        held.guard(connection)
        if best is not trials[0] and (confirmation is None or confirmation.confirmed):
            assert best.value is not None
            tuned = Tuned(
                study=search.study.digest,
                parameters=best.parameters,
                metric=search.study.metric,
                value=best.value,
                default_value=trials[0].value,
                n_ratings=search.study.n_ratings,
            )
            keep_tuned(connection, objective, architecture, tuned)
            return "best"
        if search.keeps_stored(trials):
            return "earlier"
        delete_tuned(connection, objective, architecture)
        return "default"


def reset_tuning(engine: Engine, objective: Objective, architecture: Architecture = "dot") -> ResetReport:
    """Delete the tuned config, so that `train` uses the defaults again. The trials stay."""
    with writing(engine) as connection:
        forgotten = delete_tuned(connection, objective, architecture)
    return ResetReport(objective=objective, architecture=architecture, forgotten=forgotten)
