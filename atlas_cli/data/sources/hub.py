"""``data: {hub: owner/name}``: a data set of the Hugging Face hub, read by ``datasets``; its code is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas_cli.data.rows import Rows, SourceRows, digest_of_parts, single_location
from atlas_cli.data.sources.contract import BaseSource
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.extras import install_command

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig


class Source(BaseSource):
    """A data set of the hub."""

    keys = ("subset", "split", "test_split", "validation_split")

    def load(self, data: DataConfig, key: str) -> SourceRows:
        """Rows of ``split``, and of ``test_split`` and ``validation_split`` where they are given; class numbers are
        replaced by class names.

        Raises:
            ConfigError: no such split or subset.
            ResourceError: not found, not reachable, or the ``datasets`` package is missing.
        """
        name = single_location(data, key)
        train = rows_of(name, data.subset, data.split or "train", f"{key}.split")
        own = {part: getattr(data, f"{part}_split") for part in ("test", "validation")}
        test, validation = (
            rows_of(name, data.subset, split, f"{key}.{part}_split") if split else None for part, split in own.items()
        )
        subset = f"/{data.subset}" if data.subset else ""
        sha256 = digest_of_parts(train, test, validation)
        return SourceRows(train, test, f"hub data set {name}{subset}", sha256, validation=validation)


def rows_of(name: str, subset: str | None, split: str, key: str) -> Rows:
    """The rows of one split, with class names instead of numbers.

    Raises:
        ConfigError: no such split or subset.
        ResourceError: not found, not reachable, or the ``datasets`` package is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ResourceError(f"hub data sets need the datasets package: {install_command('data')}") from error
    try:
        dataset = datasets.load_dataset(name, subset, split=split)
    except (OSError, datasets.exceptions.DatasetsError) as error:  # not found, no network, offline mode, no access
        raise ResourceError(
            f"hub data set {name!r} cannot be read ({_line(error)}); check the name and the network (or access: hf auth"
            " login), or give local files with data.files"
        ) from error
    except (ValueError, RuntimeError) as error:  # no such split or subset, a data set that is a script
        raise ConfigError(f"hub data set {name!r}: {_line(error)}", key=key) from error
    names = {column: _class_names(feature) for column, feature in dataset.features.items()}
    return [{column: _named(value, names[column]) for column, value in row.items()} for row in dataset]


def _class_names(feature: Any) -> list[str] | None:
    """Names of a column of class numbers, or of lists of them."""
    found = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(found) if found else None


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if value >= 0 else None  # the hub marks hidden labels with -1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
