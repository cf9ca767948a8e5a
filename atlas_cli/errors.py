"""What can go wrong, and the exit code that says so.

    AtlasError                      1   any failure that atlas can name
    ├── ConfigError                 2   usage or config: bad key, bad value, data that does not fit the config
    ├── ResourceError               3   a model, corpus or file that is not there
    ├── NonFiniteError              4   a loss, activation or gradient that is not finite
    ├── TooFewClientsError          5   nothing left to train or nothing feasible
    ├── BudgetSpentError            5   a round that would pass a privacy budget
    ├── BrokenBoundError            1   an audit shows a larger epsilon than the accountant promises
    ├── OutputError                 1   the run directory cannot be written
    ├── PluginError                 1   a plug-in gives what its contract does not allow
    └── InterruptedRunError       130   Ctrl-C or SIGTERM during a run, which can be gone on with

Every mistake is one line: what, where, why, what next. What next may be a note of the exception (``add_note``), where
the code that knows it is not the code that raised: the command line shows notes on the same line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_PLACES = "_atlas_places"


class AtlasError(Exception):
    """Base of all errors that the command line shows as one line instead of a traceback."""

    exit_code = 1


class ConfigError(AtlasError):
    """A config that cannot be run.

    Args:
        message: what is wrong and what to do, without the place.
        key: dotted path of the key, e.g. ``clients.phone-1.rank``; it is looked up in the YAML file for its line.
        where: ``file:line``; filled in by the command line from the key where it is not known at the raise.
        beside: dotted path of a key whose line is shown where the file does not have ``key``, and its default counts.
        others: further mistakes, each a line of its own.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        where: str | None = None,
        beside: str | None = None,
        others: Sequence[ConfigError] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.where = where
        self.beside = beside
        self.others = tuple(others)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        own = f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"
        return "\n".join([own, *map(str, self.others)])


class ResourceError(AtlasError):
    """A model, corpus, file or hub entry that cannot be found or fetched."""

    exit_code = 3


class NonFiniteError(AtlasError):
    """A value that is not finite, named by client, round and step."""

    exit_code = 4


class TooFewClientsError(AtlasError):
    """No client can take part."""

    exit_code = 5


class BudgetSpentError(AtlasError):
    """A round would tell more than ``privacy.budget`` allows; it was not trained."""

    exit_code = 5


class BrokenBoundError(AtlasError):
    """An audit shows that a mechanism tells more than the epsilon that is accounted for it."""


class OutputError(AtlasError):
    """The run directory cannot be created or written."""


class PluginError(AtlasError):
    """A plug-in that gives what its contract does not allow; the message names its file and hook."""


class InterruptedRunError(AtlasError):
    """A signal stopped a run, whose status is "interrupted"."""

    exit_code = 130


@contextmanager
def during(place: str) -> Iterator[None]:
    """Say of any error inside where it came up, e.g. "round 3" or "client phone-1"; it goes on as it is."""
    try:
        yield
    except BaseException as error:
        error.__dict__[_PLACES] = list(dict.fromkeys([place, *places_of(error)]))
        raise


def places_of(error: BaseException) -> list[str]:
    """Where an error came up, from the outermost ``during`` on."""
    places: list[str] = error.__dict__.get(_PLACES, [])
    return places
