"""One frozen, typed object for everything that is configured from outside."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.errors import InputError


class Settings(BaseSettings):
    """Settings from `RECSYS_…` environment variables and a `.env` file in the working directory.

    >>> Settings(database_url="sqlite:///shop.db").database_url
    'sqlite:///shop.db'

    Read once, at the edge, by `load_settings`; inside, values arrive as arguments.
    """

    model_config = SettingsConfigDict(env_prefix="RECSYS_", env_file=".env", frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///recsys.db",
        description="Where everything is kept: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE.",
    )
    rating_min: FiniteFloat | None = Field(
        default=None, description="Lowest rating there is; by default the lowest one seen at training."
    )
    rating_max: FiniteFloat | None = Field(
        default=None, description="Highest rating there is; by default the highest one seen at training."
    )
    gate_margin: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="How far below the live version the lower 95 % bound of a new one may lie, "
        "as a share of the live version's metric.",
    )
    checkpoints: Path = Field(
        default=Path(".recsys/checkpoints"),
        description="Folder for the state of long trainings, from which a killed one goes on.",
    )
    refresh_seconds: float = Field(
        default=0.5, gt=0, description="How often a server looks for what other processes changed."
    )
    user_cache_mib: int = Field(
        default=32, ge=0, description="Memory of each server process for users seen before, in MiB."
    )
    max_requests: int = Field(
        default=512, ge=1, description="Requests that a server process works on at once; more are told to come back."
    )
    max_body_kib: int = Field(default=4096, ge=1, description="Largest body of a request, in KiB.")
    drain_seconds: float = Field(
        default=30.0, ge=0, description="How long a server that is told to stop lets requests end."
    )
    notice_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long a server that is told to stop goes on as before, but for /health/ready, "
        "so that load balancers learn of it.",
    )
    key_required: bool = Field(default=False, description="Whether the API needs a key even where none was ever made.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR."
    )

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating, if both are configured."""
        if self.rating_min is None or self.rating_max is None:
            return None
        return self.rating_min, self.rating_max

    @model_validator(mode="after")
    def _scale_is_ordered(self) -> Self:
        if self.rating_min is not None and self.rating_max is not None and self.rating_min >= self.rating_max:
            raise ValueError(
                f"RECSYS_RATING_MIN ({self.rating_min}) must be below RECSYS_RATING_MAX ({self.rating_max})"
            )
        return self


def load_settings() -> Settings:
    """Return the settings of this process.

    >>> load_settings().database_url                                    # doctest: +SKIP

    Raises:
        InputError: a variable has a value that cannot be used; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RECSYS_" + str(first["loc"][0]).upper() if first["loc"] else "settings"
        raise InputError(f"{name}: {first['msg']}; mend it in the environment or in .env") from error
