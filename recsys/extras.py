"""Optional dependencies of the package: which extra installs which module."""

from importlib.util import find_spec

from recsys.errors import MissingExtraError

EXTRAS = {
    "dashboard": ("dash", "janus"),
    "report": ("jinja2", "kaleido", "openTSNE", "pandas", "plotly"),
    "serve": (
        "fastapi",
        "fastapi_offline",
        "httptools",
        "limits",
        "prometheus_client",
        "threadpoolctl",
        "uvicorn",
        "uvloop",
    ),
    "train": ("optuna", "pandas", "torch"),
}
"""Extra → modules that it installs, as in pyproject.toml."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error that names the extra to install, or None if the missing module belongs to no extra."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return None if extra is None else MissingExtraError(module, extra)


def has_extra(extra: str) -> bool:
    """Return whether the modules of an extra are installed, without importing them."""
    return all(find_spec(module) is not None for module in EXTRAS[extra])


def require_extra(extra: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Long jobs call it before they start, so that they do not fail at their last step.

    Raises:
        MissingExtraError: a module is missing.
    """
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra)
