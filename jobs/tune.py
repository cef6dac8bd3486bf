"""Ratings in the database → settings that beat the defaults, kept for `train` and `nightly` to use."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from pydantic import Field
from sqlalchemy import Connection, Engine, delete, insert, select

from jobs.configuration import configured
from jobs.find import Validation, held_out_of
from jobs.progress import progress, say
from jobs.train import rating_scale, ratings_to_train_on
from recsys.data.dataset import Ratings
from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import reading, writing
from recsys.database.leases import TUNING, lease
from recsys.database.tuned import Tuned, forget, keep, tuned_settings
from recsys.evaluation.gate import stated
from recsys.evaluation.splits import hold_out
from recsys.extras import require_extra
from recsys.results import Architecture, Objective, Result
from recsys.settings import Settings
from recsys.training import tune as tunes
from recsys.training.config import Config

MINUTES = 10.0
"""For how long to go on where nothing else is asked for."""


class TunedTrial(Result):
    parameters: dict[str, int | float]
    value: float | None = Field(description="On held-out ratings; null where training diverged.")
    seconds: float


class Confirmation(Result):
    """The defaults and the best settings once more, on ratings further back and with another seed."""

    default: float | None = Field(description="The metric; null where training diverged.")
    best: float | None
    confirmed: bool = Field(description="Whether the best settings are better there too.")


class TuneReport(Result):
    objective: Objective
    architecture: Architecture
    metric: str = Field(examples=["ndcg"])
    higher_is_better: bool
    default: TunedTrial
    best: TunedTrial = Field(description="The default itself where nothing beat it.")
    confirmation: Confirmation | None = Field(description="Null where nothing beat the default, or it was made before.")
    in_use: Literal["best", "default", "earlier"] = Field(
        description="What `recsys train` uses from now on; `earlier`: what an earlier call found."
    )
    trials: list[TunedTrial] = Field(description="In their order.")
    n_earlier: int = Field(description="How many of `trials` an earlier call had made.")
    n_diverged: int
    n_ratings: int
    plot: str | None = Field(description="The page that was written.")
    seconds: float


class ResetReport(Result):
    objective: Objective
    architecture: Architecture
    forgotten: bool = Field(description="Whether there were tuned settings.")


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
    """Try settings around the defaults on a validation part, and keep the best for `train` if they beat the defaults.

    The best of many trials on the same ratings may owe it to those ratings. So they must be better once more: trained
    without the validation part, on a part held out of the rest, further back in time, and with another seed.

    Goes on where an earlier call on the same ratings with the same defaults and seed ended; each trial is recorded
    as soon as it is done. The validation part is held out of what `train` would train on, by the same split, so
    that the ratings which the gate measures on have no say in the settings.

    Args:
        out: file to write the plot to, as a page.
        minutes: a trial begins only while the median one still fits. None: no limit where `n_trials` is given, else
            `MINUTES`.
        n_trials: how many, those of earlier calls included.
        fresh: forget the trials of earlier calls first.

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
    with lease(engine, TUNING) as held:
        with reading(engine) as connection:
            ratings = ratings_to_train_on(connection)
            stored = tuned_settings(connection, objective, architecture)
        scale = rating_scale(ratings, settings)
        config = configured(objective, architecture, ratings.n_ratings, ratings.n_users, None)
        validation = held_out_of(ratings.select(~hold_out(ratings)).compact(), objective, scale)
        further_back = held_out_of(validation.training_set, objective, scale)
        study = study_name(ratings, config, scale, seed)
        if fresh:
            with writing(engine) as connection:
                connection.execute(delete(schema.tuning_trials).where(schema.tuning_trials.c.study == study))
        with reading(engine) as connection:
            earlier = recorded_trials(connection, study)
        also = _to_try_again(stored, study, config, ratings.n_ratings)
        trials = list(earlier)
        say(
            f"{objective}: trainings on {validation.training_set.n_ratings:,} ratings, measuring on "
            f"{validation.n_held_out:,} held out of them; {len(earlier)} trials are there already"
        )
        total = n_trials - len(earlier) if n_trials is not None and minutes is None else (minutes or 0) * 60
        with progress(f"tuning {objective}", max(total, 0)) as advance:
            last = time.perf_counter()

            def on_epoch(n_epochs: int) -> None:
                nonlocal last
                now = time.perf_counter()
                advance(1 / n_epochs if minutes is None else now - last)
                last = now

            for trial in tunes.tune(
                validation.training_set,
                config,
                validation.measure,
                earlier,
                higher_is_better=validation.higher_is_better,
                also=also,
                n_trials=n_trials,
                seconds=None if minutes is None else minutes * 60,
                rating_scale=stated(scale),
                device=device,
                seed=seed,
                on_epoch=on_epoch,
            ):
                with writing(engine) as connection:
                    held.guard(connection)
                    _record(connection, study, ratings, config, validation.metric, trial)
                trials.append(trial)
                _say_trial(trials, validation)
        best = tunes.best(trials, validation.higher_is_better)
        confirmation = None
        if best is not trials[0] and not (stored and stored.study == study and stored.parameters == best.parameters):
            say(f"{objective}: the best once more on {further_back.n_held_out:,} ratings further back")
            confirmation = _confirmation(further_back, config, best.parameters, stated(scale), device, seed + 1)
        with writing(engine) as connection:
            held.guard(connection)
            if best is not trials[0] and (confirmation is None or confirmation.confirmed):
                assert best.value is not None
                tuned = Tuned(study, best.parameters, validation.metric, best.value, trials[0].value, ratings.n_ratings)
                keep(connection, objective, architecture, tuned)
                in_use: Literal["best", "default", "earlier"] = "best"
            elif stored and stored.holds(ratings.n_ratings) and _stays(stored, study, also, trials, validation):
                in_use = "earlier"
            else:
                forget(connection, objective, architecture)
                in_use = "default"
    report = TuneReport(
        objective=objective,
        architecture=architecture,
        metric=validation.metric,
        higher_is_better=validation.higher_is_better,
        default=_reported(trials[0]),
        best=_reported(best),
        confirmation=confirmation,
        in_use=in_use,
        trials=[_reported(trial) for trial in trials],
        n_earlier=len(earlier),
        n_diverged=sum(trial.value is None for trial in trials),
        n_ratings=ratings.n_ratings,
        plot=None if out is None else str(out),
        seconds=round(time.perf_counter() - started, 3),
    )
    if out is not None:
        from recsys.analysis import page

        page.write(out, tuning_document(report))
    return report


def reset_tuning(engine: Engine, objective: Objective, architecture: Architecture = "dot") -> ResetReport:
    """Forget the tuned settings, so that `train` uses the defaults again. The trials stay."""
    with writing(engine) as connection:
        forgotten = forget(connection, objective, architecture)
    return ResetReport(objective=objective, architecture=architecture, forgotten=forgotten)


def study_name(ratings: Ratings, config: Config, scale: tuple[float, float], seed: int) -> str:
    """A digest of all that makes two trials with the same settings the same."""
    space = {field: asdict(values) for field, values in tunes.search_space(config).items()}
    told = json.dumps([ratings.fingerprint(), config.as_record(), space, scale, seed], sort_keys=True)
    return blake2b(told.encode(), digest_size=16).hexdigest()


def recorded_trials(connection: Connection, study: str) -> list[tunes.Trial]:
    """The trials of a study in their order."""
    table = schema.tuning_trials.c
    rows = connection.execute(
        select(table.parameters, table.value, table.seconds).where(table.study == study).order_by(table.trial_key)
    )
    return [tunes.Trial(row.parameters, row.value, row.seconds) for row in rows]


def tuning_document(report: TuneReport) -> str:
    """A search as a page."""
    from recsys.analysis.findings import finding_page, tuning_figure

    figure = tuning_figure([trial.value for trial in report.trials], report.metric, report.higher_is_better)
    fields = list(report.default.parameters)
    rows = [
        [
            str(number) + (" (default)" if number == 1 else ""),
            *(f"{trial.parameters[field]:g}" for field in fields),
            _shown(trial.value),
            f"{trial.seconds:.1f}",
        ]
        for number, trial in enumerate(report.trials, start=1)
    ]
    better = "higher" if report.higher_is_better else "lower"
    how = (
        f"One training for each trial, the first with the defaults, the later ones where the earlier ones did well; "
        f"{report.metric} on ratings held out of the training part, {better} is better."
    )
    title = f"Settings of the {report.objective} model"
    header = ["trial", *fields, report.metric, "seconds"]
    return finding_page(title, how, figure, header, rows, report.trials.index(report.best))


def tuning_table(report: TuneReport) -> list[list[str]]:
    """Each setting, then the metric: name, with the defaults, with the best settings."""
    settings = [
        [field, f"{value:g}", f"{report.best.parameters[field]:g}"]
        for field, value in report.default.parameters.items()
    ]
    return [*settings, [report.metric, _shown(report.default.value), _shown(report.best.value)]]


def _to_try_again(stored: Tuned | None, study: str, config: Config, n_ratings: int) -> list[tunes.Parameters]:
    """The settings in use, where they were tuned on other ratings: what replaces them must be better."""
    if stored is None or stored.study == study or not stored.holds(n_ratings):
        return []
    parameters = tunes.defaults(config)
    return [{field: stored.parameters.get(field, default) for field, default in parameters.items()}]


def _confirmation(
    further_back: Validation,
    config: Config,
    parameters: tunes.Parameters,
    scale: tuple[float, float] | None,
    device: str,
    seed: int,
) -> Confirmation:
    pair = [
        tunes.run_trial(
            further_back.training_set,
            tunes.with_parameters(config, settings),
            settings,
            further_back.measure,
            scale,
            device,
            seed,
        )
        for settings in (tunes.defaults(config), parameters)
    ]
    default, best = pair
    confirmed = best.value is not None and tunes.best(pair, further_back.higher_is_better) is best
    return Confirmation(default=default.value, best=best.value, confirmed=confirmed)


def _stays(
    stored: Tuned,
    study: str,
    also: Sequence[tunes.Parameters],
    trials: Sequence[tunes.Trial],
    validation: Validation,
) -> bool:
    """Whether settings in use stay, as nothing replaces them: unless they were tried and did not beat the defaults."""
    if stored.study == study:
        return True
    again = next((trial for trial in trials if trial.parameters in also), None)
    if again is None:
        return True
    return again.value is not None and tunes.best([trials[0], again], validation.higher_is_better) is again


def _record(
    connection: Connection, study: str, ratings: Ratings, config: Config, metric: str, trial: tunes.Trial
) -> None:
    connection.execute(
        insert(schema.tuning_trials).values(
            study=study,
            objective=config.objective,
            architecture=config.architecture,
            data_fingerprint=ratings.fingerprint(),
            n_ratings=ratings.n_ratings,
            parameters=dict(trial.parameters),
            metric=metric,
            value=trial.value,
            seconds=trial.seconds,
            created_at=now_ms(),
        )
    )


def _say_trial(trials: Sequence[tunes.Trial], validation: Validation) -> None:
    trial = trials[-1]
    measured = [known for known in trials if known.value is not None]
    is_best = trial.value is not None and tunes.best(measured, validation.higher_is_better) is trial
    say(
        f"trial {len(trials)}: {validation.metric} {_shown(trial.value)} after {trial.seconds:.1f} s"
        + (", the best so far" if is_best and len(trials) > 1 else "")
    )


def _reported(trial: tunes.Trial) -> TunedTrial:
    return TunedTrial(parameters=dict(trial.parameters), value=trial.value, seconds=round(trial.seconds, 3))


def _shown(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"
