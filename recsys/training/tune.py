"""Tuning: trainings with configs around the default one, each chosen by the results of the earlier ones."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import TrainingError
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.devices import pick_device
from recsys.training.trial import train_and_measure

Parameters = Mapping[str, float]
"""Fields of `Config` → values."""

N_RANDOM_TRIALS = 10
"""Number of trials, the first ones included, that are drawn at random before the sampler looks at results."""
FEWEST_FACTORS, MOST_FACTORS = 16, 256


@dataclass(frozen=True, slots=True)
class SearchRange:
    """The values that one field of a config may take.

    Attributes:
        kind: `real` and `whole` numbers are drawn uniformly in their logarithm; `doubling` is `low` times a power of
            two.
        low, high: the ends, both included.
    """

    kind: Literal["real", "whole", "doubling"]
    low: float
    high: float

    @classmethod
    def doublings(cls, default: int, low: float, high: float) -> Self:
        """Return the values that come from `default` by doubling and halving, between `low` and `high`."""
        lowest = highest = default
        while lowest % 2 == 0 and lowest // 2 >= low:
            lowest //= 2
        while highest * 2 <= high:
            highest *= 2
        return cls("doubling", lowest, highest)

    def distribution(self) -> BaseDistribution:
        """Return the distribution that the sampler draws from: of doublings, their number."""
        if self.kind == "real":
            return FloatDistribution(self.low, self.high, log=True)
        if self.kind == "whole":
            return IntDistribution(int(self.low), int(self.high), log=True)
        return IntDistribution(0, round(math.log2(self.high / self.low)))

    def to_sample(self, value: float) -> float:
        """Return a value as the sampler draws it."""
        return round(math.log2(value / self.low)) if self.kind == "doubling" else value

    def from_sample(self, sample: float) -> float:
        """Return the value of what the sampler drew; real numbers are rounded to three significant digits."""
        if self.kind == "doubling":
            return int(self.low) << int(sample)
        if self.kind == "whole":
            return int(sample)
        return min(max(float(f"{sample:.3g}"), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Trial:
    """One training.

    Attributes:
        parameters: the values that are searched.
        value: the metric; `None` if training diverged, or did not fit into the memory of the device.
        seconds: duration of training and measuring.
    """

    parameters: Parameters
    value: float | None
    seconds: float


def search_space(config: Config) -> dict[str, SearchRange]:
    """Return the fields to search, those that matter for the objective, each with a range around its default.

    A field whose default is 0, or depends on the data, is not searched. `item` finds λ and the strength of popularity
    in each trial by itself.
    """
    if config.architecture == "item":
        return {
            "rating_weight": SearchRange("real", config.rating_weight / 4, config.rating_weight * 4),
            "item_dropout": SearchRange("real", 0.1, 0.9),
            "n_neighbours": SearchRange.doublings(
                config.n_neighbours, config.n_neighbours / 4, config.n_neighbours * 4
            ),
        }
    factor_of = {"learning_rate": 4.0}
    if config.objective == "ranking":
        factor_of |= {"weight_decay": 10.0, "rating_weight": 4.0}
    else:
        factor_of |= {"l2": 10.0, "damping": 10.0}
        if config.implicit:
            factor_of |= {"user_implicit_l2": 10.0, "item_implicit_l2": 10.0}
    space = {
        field: SearchRange("real", getattr(config, field) / factor, getattr(config, field) * factor)
        for field, factor in factor_of.items()
        if getattr(config, field) > 0
    }
    space["batch_size"] = SearchRange.doublings(config.batch_size, config.batch_size / 4, config.batch_size * 4)
    if config.n_factors is not None:
        space["n_factors"] = SearchRange.doublings(config.n_factors, FEWEST_FACTORS, MOST_FACTORS)
    space["n_epochs"] = SearchRange("whole", max(1, config.n_epochs // 2), config.n_epochs * 2)
    return space


def run_trials(
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
    """Train with `config`, then with one set of parameters after another; yields each trial when it is done.

    The next parameters depend on the earlier trials, the seed and the number of trials alone: continuing after a
    break gives the same trials as no break. All trainings have the same seed. None is stopped early: under a one-cycle
    schedule a training is at its best only at its end.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (the tree-structured Parzen
    estimator), in Optuna's implementation.

    Args:
        train: without the ratings that `measure` looks at.
        config: the defaults, which the first trial uses.
        measure: returns the metric of factors on held-out ratings. They are held out of the training part, not of the
            test: the best of many trials on the same ratings is a little better there than anywhere else.
        earlier: the trials of this search that are done already.
        also: parameters to try right after the defaults.
        n_trials: number of trials, the earlier ones included.
        seconds: a trial starts only while the median trial so far still fits; the first one always starts.
        on_epoch: called after every epoch with the number of epochs of its training.

    Raises:
        TrainingError: there is nothing to train on, or no such device.
    """
    validate_ratings(train, rating_scale)
    pick_device(device)
    space = search_space(config)
    first = [defaults(config), *also]

    def trials() -> Iterator[Trial]:
        started = time.perf_counter()
        done = list(earlier)
        while starts_another(done, n_trials, seconds, time.perf_counter() - started):
            parameters = next_parameters(space, first, done, higher_is_better=higher_is_better, seed=seed)
            chosen = with_parameters(config, parameters)
            done.append(run_trial(train, chosen, parameters, measure, rating_scale, device, seed, on_epoch))
            yield done[-1]

    return trials()


def starts_another(trials: Sequence[Trial], n_trials: int | None, seconds: float | None, spent: float) -> bool:
    """Return whether another trial starts: there are none yet, or neither their number nor the time is used up.

    Args:
        spent: seconds since the search started.
    """
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
    """Train with a config, of which `parameters` are the values searched, and measure."""
    outcome = train_and_measure(
        train,
        config,
        measure,
        rating_scale=rating_scale,
        device=device,
        seed=seed,
        on_epoch=(lambda: on_epoch(config.n_epochs)) if on_epoch else None,
    )
    return Trial(parameters, outcome.metric, outcome.seconds)


def defaults(config: Config) -> Parameters:
    """Return the values of a config that are searched."""
    return {field: getattr(config, field) for field in search_space(config)}


def with_parameters(config: Config, parameters: Parameters) -> Config:
    """Return a config with some values in place of its own."""
    values: dict[str, Any] = dict(parameters)
    return replace(config, **values)


def next_parameters(
    space: Mapping[str, SearchRange],
    first: Sequence[Parameters],
    trials: Sequence[Trial],
    *,
    higher_is_better: bool,
    seed: int,
) -> Parameters:
    """Return what to try after these trials: those of `first` that were not tried yet, then what the sampler draws.

    A trial without a value counts as worse than all others. Trials outside the space are ignored.
    """
    tried = [trial.parameters for trial in trials]
    for parameters in first:
        if parameters not in tried:
            return parameters
    # Each draw has its own seed, so that a draw is repeated only if everything before it is the same.
    sampler = optuna.samplers.TPESampler(
        seed=(seed * 1_000_003 + len(trials)) % 2**32, n_startup_trials=N_RANDOM_TRIALS
    )
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    distributions = {field: values.distribution() for field, values in space.items()}
    for trial in trials:
        if trial.parameters.keys() == space.keys() and all(
            values.low <= trial.parameters[field] <= values.high for field, values in space.items()
        ):
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if trial.value is None else TrialState.COMPLETE,
                    value=trial.value,
                    params={field: values.to_sample(trial.parameters[field]) for field, values in space.items()},
                    distributions=distributions,
                )
            )
    samples = study.ask(distributions).params
    return {field: values.from_sample(samples[field]) for field, values in space.items()}


def best_trial(trials: Sequence[Trial], higher_is_better: bool) -> Trial:
    """Return the trial with the best value, the first of equals.

    Raises:
        TrainingError: every training diverged.
    """
    measured = [trial for trial in trials if trial.value is not None]
    if not measured:
        raise TrainingError(
            f"training diverged in {'the only trial' if len(trials) == 1 else f'all {len(trials)} trials'}: "
            "find a learning rate with `recsys lr-find`, and give tuning more time"
        )
    sign = -1.0 if higher_is_better else 1.0
    return min(measured, key=lambda trial: sign * (trial.value or 0.0))
