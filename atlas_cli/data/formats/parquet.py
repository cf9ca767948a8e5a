"""Parquet tables, by pyarrow."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.extras import install_command


def read_parquet(path: Path, key: str, notes: list[str]) -> Rows:
    """The rows of the table.

    Raises:
        ConfigError: not a Parquet file, or a damaged one.
        ResourceError: pyarrow is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ResourceError(f"{path}: Parquet files need the pyarrow package: {install_command('data')}") from error
    try:
        with pq.ParquetFile(path) as file:
            return file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:  # which of them depends on the damage
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: not a Parquet file: {reason}", key=key) from error
