"""Data sources: one file each, found by its name as a key of ``data`` in the YAML (``data: {corpus: sms-spam}``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas_cli import discovery, plugins
from atlas_cli.data.sources.contract import KEYS, BaseSource, Key
from atlas_cli.errors import ConfigError

if TYPE_CHECKING:
    from atlas_cli.config.schema.task_groups import _DataFields as DataConfig
    from atlas_cli.data.rows import SourceRows

PACKAGE = "data.sources"


def read_source(data: DataConfig, key: str) -> SourceRows:
    """All rows of the source that a group's ``data`` section names.

    Raises:
        ConfigError: a key that this source does not read, or what the source itself refuses.
        ResourceError: the data is missing.
    """
    source = _source(data.source, f"{key}.{data.source}")
    for name in KEYS:
        if name not in source.keys and getattr(data, name) is not None:
            raise ConfigError(
                f"only goes with {_readers(name)}, this group reads {data.source}; remove it", key=f"{key}.{name}"
            )
    return source.load(data, key)


def _source(name: str, key: str | None = None) -> BaseSource:
    return plugins.load_class(PACKAGE, name, "Source", BaseSource, key=key)()


def _readers(key: Key) -> str:
    """The sources of atlas that read a key."""
    own = discovery.own_names(PACKAGE)
    return " and ".join(name for name in own if key in _source(name).keys)
