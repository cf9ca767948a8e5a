"""What follows from clients' training texts: rows of the token embedding that they hold, tokens that a server keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import pad_token_id
from atlas_cli.data.prepare import PreparedGroup, prepare
from atlas_cli.errors import AtlasError
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import load_tokenizer
from atlas_cli.planning.memory.embedding_rows import assumed_rows, distinct_tokens
from atlas_cli.tasks.contract import Feature


def read_rows(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[dict[str, int], list[str]]:
    """The rows of each client that does not hold the whole table.

    Where texts cannot be read a number is assumed, and noted.
    """
    clients = [spec for spec in config.expanded_clients() if spec.embedding == "rows"]
    if not clients:
        return {}, []
    try:
        data, pad = prepared_data(config, hf_config)
    except AtlasError as error:
        rows = assumed_rows(int(hf_config.vocab_size))
        note = f"embedding: rows is counted with {rows:,} rows, since its texts cannot be read ({error})"
        return {client.name: rows for client in clients}, [note]
    return {c.name: len(distinct_tokens(data[c.task_group].train[c.name], pad)) for c in clients}, []


def read_kept(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[dict[str, int], list[str]]:
    """The tokens of the different training texts of each frozen client, whose activations the server comes to keep.

    Where texts cannot be read there are none, and a note.
    """
    clients = [spec for spec in config.expanded_clients() if spec.learns == "frozen"]
    if not clients:
        return {}, []
    try:
        data, _ = prepared_data(config, hf_config)
    except AtlasError as error:
        return {}, [f"not in the server's memory: activations kept for frozen clients; no texts can be read ({error})"]
    found = {c.name: _distinct(data[c.task_group].train[c.name]) for c in clients}
    note = "the server's cut buffers hold the activations of all training texts of frozen clients, as after an epoch"
    return found, [note]


def _distinct(features: Sequence[Feature]) -> int:
    """The tokens of texts that differ in tokens, segments or labels."""
    names = ("input_ids", "token_type_ids", "labels")
    texts = {str([feature.get(name) for name in names]): len(feature["input_ids"]) for feature in features}
    return sum(texts.values())


def prepared_data(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[Mapping[str, PreparedGroup], int]:
    """The data of all task groups, and the token for padding.

    Raises:
        AtlasError: tokenizer or data cannot be read.
    """
    tokenizer = load_tokenizer(config.model)
    causal = family_of(hf_config, config.model.family).causal
    return prepare(config, tokenizer, causal), pad_token_id(tokenizer)


def most_rows(config: ExperimentConfig, hf_config: PreTrainedConfig) -> dict[str, int]:
    """By place of a client's template in the config, the most rows of a client of it that does not hold the table."""
    return rows_by_entry(config, read_rows(config, hf_config)[0])


def rows_by_entry(config: ExperimentConfig, counted: Mapping[str, int]) -> dict[str, int]:
    """From rows by client to the most of any client of a template, by place of the template in the config."""
    most: dict[str, int] = {}
    for spec in config.expanded_clients():
        if spec.name in counted:
            most[spec.key] = max(counted[spec.name], most.get(spec.key, 0))
    return most
