"""The examples that a trained model is scored on: a part of its run's data, or another file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_cli.data.length_fit import Fit, fit_notes, only_whole
from atlas_cli.data.prepare import PreparedGroup, prepare
from atlas_cli.data.read import read_more
from atlas_cli.data.rows import Rows, digest
from atlas_cli.data.token_cache import encode
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.privacy.token_replacement import replace_tokens
from atlas_cli.tasks.contract import Feature

Split = Literal["test", "validation", "local"]


@dataclass(frozen=True)
class ScoredPart:
    """Examples with their labels.

    Attributes:
        name: ``test``, ``validation``, ``local``, or the name of the file.
        rows: as they were read; ``features``: of those that fit, each with the number of its row.
        own: whether they are a part of the run's own data.
        notes: how they were read, and how they fit, a sentence each.
    """

    name: str
    rows: Rows
    features: Sequence[Feature]
    own: bool
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the rows."""
        return digest(self.rows)

    @property
    def file_stem(self) -> str:
        """What files on it are called: other rows of a file of the same name have another."""
        return self.name if self.own else f"{Path(self.name).stem}-{self.sha256[:8]}"


def part_of_run(loaded: LoadedModel, split: Split = "test") -> ScoredPart:
    """A part of the data that a model was trained with, which must be what it was.

    Raises:
        ConfigError: there is no such part.
        ResourceError: the data is missing, or is not what it was.
    """
    group = loaded.owner.group
    alone = loaded.config.model_copy(update={"task_groups": {group: loaded.config.task_groups[group]}})
    try:
        prepared = prepare(alone, loaded.tokenizer, loaded.base.family.causal)[group]
    except ResourceError as error:
        error.add_note("restore it, or score another file with --data FILE")
        raise
    if loaded.replacement is not None:
        prepared = replace_tokens({group: prepared}, loaded.replacement, loaded.config.seed)[group]
    if split == "local":
        part = _local(loaded, prepared)
    else:
        part = ScoredPart(split, prepared.data.held_out.get(split, []), prepared.scored.get(split, []), own=True)
    if not part.features:
        missing = {"validation": "holdout.validation", "local": "partition.local_test", "test": "holdout.test"}[split]
        raise ConfigError(f"--split: task group {group} has no {split} part ({missing}); give --data FILE")
    facts = loaded.manifest["data"][group]
    was, is_ = (facts["sha256"], prepared.data.sha256) if split == "local" else (facts[f"{split}_sha256"], part.sha256)
    if was != is_:
        raise ResourceError(
            f"the {split} part of task group {group} is not what it was when {loaded.run.path} was computed; restore"
            f" the data ({prepared.data.origin}), or give it as --data FILE"
        )
    return part


def _local(loaded: LoadedModel, prepared: PreparedGroup) -> ScoredPart:
    """The local test part of a client; of a group, or a learner that has all data of its group, those of all."""
    client = loaded.owner.client
    clients = [client] if client is not None and client in prepared.local_test else list(prepared.local_test)
    features = [feature for name in clients for feature in prepared.local_test[name]]
    numbers = dict.fromkeys(feature["row"] for feature in features)
    return ScoredPart("local", [prepared.data.train[number] for number in numbers], features, own=True)


def part_of_file(loaded: LoadedModel, file: str) -> ScoredPart:
    """The rows of a file, read and cut as those of the model's task group were.

    Raises:
        ConfigError: they do not fit its task, its columns or its classes.
        ResourceError: there is no such file.
    """
    config, group = loaded.config, loaded.owner.group
    rows, notes = read_more(group, config.task_groups[group], file, loaded.task.classes)
    rule, length = config.training.on_truncated, config.training.max_length
    encoded = encode(loaded.task, rows, loaded.tokenizer, length)
    if rule in ("drop", "error"):
        encoded = only_whole(encoded, rule == "error", {"data": len(rows)}, length)
    for number, features in enumerate(encoded):
        for feature in features:
            feature["row"] = number
    features = [feature for of_row in encoded for feature in of_row]
    if not features:
        raise ConfigError(f"{file}: no example is left: no row fits training.max_length {length} ({rule})")
    if loaded.replacement is not None:
        features = loaded.replacement.replaced(features, config.seed, "file")
    fit = fit_notes({"data": Fit.of(len(rows), features)}, length, rule)
    return ScoredPart(Path(file).name, rows, features, own=False, notes=(*notes, *fit))
