"""Measure a checkpoint on cases with known reports."""

from db.errors import ConfigurationError

try:
    import matplotlib as mpl  # noqa: F401 - only to report a missing package before any module here fails
    import rapidfuzz  # noqa: F401
    import sacrebleu  # noqa: F401
except ImportError as error:
    raise ConfigurationError(
        "missing packages for evaluation: run `pip install -c constraints.txt '.[evaluate]'` in the repository"
    ) from error
