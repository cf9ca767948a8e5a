"""Where codecs keep what they keep of texts, beyond what fits in memory (``engine.kept_texts``)."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.runs.directory import folder_of_runs
from atlas_cli.storage.scratch_folders import OFFLOAD
from atlas_cli.storage.tensor_files import TensorFiles
from atlas_cli.storage.tensor_store import TensorStore
from atlas_cli.units import parse_bytes


def kept_texts_of(config: ExperimentConfig) -> TensorStore | None:
    """The store of one process, if the config asks for one; else all stays in memory."""
    if config.engine.kept_texts is None:
        return None
    files = TensorFiles(folder_of_runs(config.output.dir), OFFLOAD)
    return TensorStore(parse_bytes(config.engine.kept_texts), files)
