"""The packages of the REST service, which most commands do without."""

from collections.abc import Iterator
from contextlib import contextmanager

from rgals.errors import MissingDependencyError

__all__ = ["needs_service"]


@contextmanager
def needs_service(command: str) -> Iterator[None]:
    """Say how to install what an import did not find.

    Parameters
    ----------
    command : str
        The command that needs it.

    Raises
    ------
    MissingDependencyError
        If a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{command} needs the package {error.name}, which is not installed; run: pip install 'rgals[serve]'"
        ) from error
