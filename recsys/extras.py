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
    "traces": ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk"),
    "train": ("optuna", "pandas", "torch"),
}
"""Extra → modules that it installs, as in pyproject.toml."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error that names the extra to install, or None if the missing module belongs to no extra."""
    name = f"{error.name or '?'}."
    for extra, modules in EXTRAS.items():
        for module in modules:
            # A part of the module, or a package that the module is a part of.
            if name.startswith(f"{module}.") or f"{module}.".startswith(name):
                return MissingExtraError(module, extra)
    return None


def has_extra(extra: str) -> bool:
    """Return whether the modules of an extra are installed, without importing them."""
    return all(is_installed(module) for module in EXTRAS[extra])


def is_installed(module: str) -> bool:
    """Return whether a module is installed, without importing it; of a part of a package, its parents are."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def require_extra(extra: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Long jobs call it before they start, so that they do not fail at their last step.

    Raises:
        MissingExtraError: a module is missing.
    """
    for module in EXTRAS[extra]:
        if not is_installed(module):
            raise MissingExtraError(module, extra)
