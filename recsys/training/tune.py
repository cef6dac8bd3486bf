"""Tuning: trainings with settings around the defaults, each chosen by how the earlier ones fared."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import TrainingError
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.fit import fit, pick_device

Parameters = Mapping[str, float]
"""Fields of `Config` → their values."""

_N_RANDOM = 10
"""So many trials, the first ones among them, before the earlier ones have a say."""
_FEWEST_FACTORS, _MOST_FACTORS = 16, 256


@dataclass(frozen=True, slots=True)
class Range:
    """The values that one setting may take.

    Attributes:
        kind: `real` and `whole` numbers are drawn uniformly in their logarithm; `doubling` is `low` and what
            comes of it by doubling.
        low, high: both included.
    """

    kind: Literal["real", "whole", "doubling"]
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One training.

    Attributes:
        parameters: the settings that are being tuned.
        value: of the metric; None where training diverged, or did not fit into the memory of the device.
        seconds: training and measuring.
    """

    parameters: Parameters
    value: float | None
    seconds: float


def search_space(config: Config) -> dict[str, Range]:
    """What to search: the settings that matter for the objective, each around its default.

    A setting whose default is 0, or left to the data, is left alone.
    """
    reals = {"learning_rate": 4.0}
    if config.objective == "ranking":
        reals |= {"weight_decay": 10.0, "rating_weight": 4.0}
    else:
        reals |= {"l2": 10.0, "damping": 10.0}
        if config.implicit:
            reals |= {"user_implicit_l2": 10.0, "item_implicit_l2": 10.0}
    space = {
        field: Range("real", getattr(config, field) / factor, getattr(config, field) * factor)
        for field, factor in reals.items()
        if getattr(config, field) > 0
    }
    space["batch_size"] = _doublings(config.batch_size, config.batch_size / 4, config.batch_size * 4)
    if config.n_factors is not None:
        space["n_factors"] = _doublings(config.n_factors, _FEWEST_FACTORS, _MOST_FACTORS)
    space["n_epochs"] = Range("whole", max(1, config.n_epochs // 2), config.n_epochs * 2)
    return space


def tune(
    train: Ratings,
    config: Config,
    measure: Callable[[Factors], float],
    earlier: Sequence[Trial] = (),
    *,
    higher_is_better: bool,
    also: Sequence[Parameters] = (),
    n_trials: int | None = None,
    seconds: float | None = None,
    rating_scale: tuple[float, float] | None = None,
    device: str = "auto",
    seed: int = 0,
    on_epoch: Callable[[int], None] | None = None,
) -> Iterator[Trial]:
    """Train with `config`, then with one set of settings after another; yields each trial as soon as it is there.

    Which settings come next is settled by the earlier trials, the seed and how many there were: going on after
    a break gives what would have come without it. All trainings have the same seed, and nothing is broken off
    early: under a one-cycle schedule a training is at its best only at its end.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (the tree-structured Parzen
    estimator), as Optuna has it.

    Args:
        train: without the ratings that `measure` looks at.
        config: the defaults; the first trial is they.
        measure: the metric of factors on held-out ratings. Held out of the training part, not the test: the best
            of many trials on the same ratings is a little better there than anywhere else.
        earlier: the trials of this search that are there already.
        also: settings to try right after the defaults.
        n_trials: how many, the earlier ones included.
        seconds: a trial begins only while the median trial so far still fits into them; the defaults always do.
        on_epoch: called after every epoch with the number of epochs of its training.

    Raises:
        TrainingError: there is nothing to train on, or no such device.
    """
    validate_ratings(train, rating_scale)
    pick_device(device)
    space = search_space(config)
    first = [defaults(config), *also]

    def trials() -> Iterator[Trial]:
        began = time.perf_counter()
        known = list(earlier)
        while _goes_on(known, n_trials, seconds, time.perf_counter() - began):
            parameters = next_parameters(space, first, known, higher_is_better=higher_is_better, seed=seed)
            chosen = with_parameters(config, parameters)
            known.append(run_trial(train, chosen, parameters, measure, rating_scale, device, seed, on_epoch))
            yield known[-1]

    return trials()


def defaults(config: Config) -> Parameters:
    """The settings of a configuration that are searched."""
    return {field: getattr(config, field) for field in search_space(config)}


def with_parameters(config: Config, parameters: Parameters) -> Config:
    """A configuration with some settings in place of its own."""
    given: dict[str, Any] = dict(parameters)
    return replace(config, **given)


def next_parameters(
    space: Mapping[str, Range],
    first: Sequence[Parameters],
    trials: Sequence[Trial],
    *,
    higher_is_better: bool,
    seed: int,
) -> Parameters:
    """What to try after these trials: those of `first` that were not tried yet, then what the sampler draws.

    A trial without a value counts as worse than all others. Trials outside the space are not looked at.
    """
    tried = [trial.parameters for trial in trials]
    for parameters in first:
        if parameters not in tried:
            return parameters
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=_mixed(seed, len(trials)), n_startup_trials=_N_RANDOM)
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    distributions = {field: _distribution(values) for field, values in space.items()}
    for trial in trials:
        if trial.parameters.keys() == space.keys() and all(
            values.low <= trial.parameters[field] <= values.high for field, values in space.items()
        ):
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if trial.value is None else TrialState.COMPLETE,
                    value=trial.value,
                    params={field: _drawn(values, trial.parameters[field]) for field, values in space.items()},
                    distributions=distributions,
                )
            )
    drawn = study.ask(distributions).params
    return {field: _setting(values, drawn[field]) for field, values in space.items()}


def best(trials: Sequence[Trial], higher_is_better: bool) -> Trial:
    """The trial with the best value, the first of equals.

    Raises:
        TrainingError: every training diverged.
    """
    measured = [trial for trial in trials if trial.value is not None]
    if not measured:
        raise TrainingError(
            f"training diverged in {'the only trial' if len(trials) == 1 else f'all {len(trials)} trials'}: "
            "let `recsys lr-find` look for a learning rate, and give tuning more time"
        )
    sign = -1.0 if higher_is_better else 1.0
    return min(measured, key=lambda trial: sign * (trial.value or 0.0))


def _doublings(default: int, low: float, high: float) -> Range:
    """From `low` to `high` as far as doubling and halving the default goes; the default is always among them."""
    lowest = highest = default
    while lowest % 2 == 0 and lowest // 2 >= low:
        lowest //= 2
    while highest * 2 <= high:
        highest *= 2
    return Range("doubling", lowest, highest)


def _distribution(values: Range) -> BaseDistribution:
    if values.kind == "real":
        return FloatDistribution(values.low, values.high, log=True)
    if values.kind == "whole":
        return IntDistribution(int(values.low), int(values.high), log=True)
    return IntDistribution(0, round(math.log2(values.high / values.low)))


def _drawn(values: Range, setting: float) -> float:
    """A setting as the sampler knows it: of doublings their number."""
    return round(math.log2(setting / values.low)) if values.kind == "doubling" else setting


def _setting(values: Range, drawn: float) -> float:
    """The setting that was drawn, real numbers to three significant digits."""
    if values.kind == "doubling":
        return int(values.low) << int(drawn)
    if values.kind == "whole":
        return int(drawn)
    return min(max(float(f"{drawn:.3g}"), values.low), values.high)


def _mixed(seed: int, n_trials: int) -> int:
    """A seed of its own for each draw, so that one is repeated only where everything before it is the same."""
    return (seed * 1_000_003 + n_trials) % 2**32


def _goes_on(trials: Sequence[Trial], n_trials: int | None, seconds: float | None, spent: float) -> bool:
    if not trials:
        return True
    if n_trials is not None and len(trials) >= n_trials:
        return False
    return seconds is None or spent + statistics.median(trial.seconds for trial in trials) <= seconds


def run_trial(
    train: Ratings,
    config: Config,
    parameters: Parameters,
    measure: Callable[[Factors], float],
    rating_scale: tuple[float, float] | None,
    device: str,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
) -> Trial:
    """Train with a configuration, of which `parameters` are the settings searched, and measure."""
    started = time.perf_counter()
    value: float | None = None
    try:
        fitted = fit(
            train,
            config,
            rating_scale=rating_scale,
            device=device,
            seed=seed,
            on_epoch=(lambda _: on_epoch(config.n_epochs)) if on_epoch else None,
        )
        value = measure(fitted.factors)
    except TrainingError:  # it diverged, or memory is short: data and device were looked at before
        pass
    return Trial(
        parameters, value if value is not None and math.isfinite(value) else None, time.perf_counter() - started
    )
