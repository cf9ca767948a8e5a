"""A test of a data source, for its author's own tests: ``conformance.check({"folders": "tests/reviews"})``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.config.schema.task_groups import DataConfig
from atlas_cli.data.rows import SourceRows, digest_of_parts
from atlas_cli.data.sources import read_source
from atlas_cli.errors import AtlasError

NOWHERE = "no/such/place"


def check(data: Mapping[str, Any]) -> SourceRows:
    """Read a ``data`` section twice, and hold what comes against what every source promises; gives what was read.

    Raises:
        AssertionError: says which promise is broken.
        AtlasError: the source breaks its contract, or what it reads is not there.
    """
    section = DataConfig.model_validate(dict(data))
    found, again = (read_source(section, "data") for _ in range(2))
    assert isinstance(found, SourceRows), f"load gives {type(found).__name__}, and must give SourceRows"
    assert found.train, "there are no training rows"
    for row in (*found.train, *(found.test or ()), *(found.validation or ())):
        assert isinstance(row, dict) and all(isinstance(name, str) for name in row), f"no row by column: {row!r:.80}"
        whole = found.split_by is None or row.get(found.split_by)
        assert whole, f"a row has no {found.split_by} (split_by): {row!r:.80}"
    parts = found.train, found.test, found.validation
    alike = parts == (again.train, again.test, again.validation)
    assert alike, "rows, or their order, differ from one read to the next"
    assert found.sha256 == digest_of_parts(*parts), "sha256 is not digest(train, test), and of validation rows if any"
    assert found.origin and "\n" not in found.origin, "origin is not one line"
    try:
        read_source(section.model_copy(update={section.source: NOWHERE}), "data")
    except AtlasError:
        return found
    raise AssertionError(f"{section.source}: {NOWHERE} is no error (ConfigError or ResourceError)")
