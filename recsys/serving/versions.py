"""Model versions as answers."""

from recsys.database.models import ModelVersion
from recsys.results import ModelDetail, ModelSummary, as_time


def summarised(version: ModelVersion) -> ModelSummary:
    return ModelSummary(
        number=version.number,
        objective=version.objective,
        architecture=version.training.architecture,
        live=version.live,
        created_at=as_time(version.created_at),
        n_users=version.n_users,
        n_items=version.n_items,
        n_ratings=version.training.n_ratings,
        n_factors=version.n_factors,
        metrics=dict(version.training.metrics),
    )


def detailed(version: ModelVersion) -> ModelDetail:
    training = version.training
    return ModelDetail(
        **summarised(version).model_dump(),
        baselines={name: dict(values) for name, values in training.baselines.items()},
        configuration=dict(training.configuration),
        history=[dict(epoch) for epoch in training.history],
        rating_min=training.rating_scale[0],
        rating_max=training.rating_scale[1],
        training_seconds=training.training_seconds,
    )
