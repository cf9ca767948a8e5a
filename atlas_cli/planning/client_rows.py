"""How many rows of the token embedding clients hold, counted in their training texts."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import pad_token_id
from atlas_cli.data.prepare import prepare
from atlas_cli.errors import AtlasError
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import load_tokenizer
from atlas_cli.planning.memory.embedding_rows import assumed_rows, distinct_tokens


def read_rows(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[dict[str, int], list[str]]:
    """The rows of each client that does not hold the whole table.

    Where texts cannot be read a number is assumed, and noted.
    """
    clients = [spec for spec in config.expanded_clients() if spec.embedding == "rows"]
    if not clients:
        return {}, []
    try:
        tokenizer = load_tokenizer(config.model)
        causal = family_of(hf_config, config.model.family).causal
        data, pad = prepare(config, tokenizer, causal), pad_token_id(tokenizer)
    except AtlasError as error:
        rows = assumed_rows(int(hf_config.vocab_size))
        note = f"embedding: rows is counted with {rows:,} rows, since its texts cannot be read ({error})"
        return {client.name: rows for client in clients}, [note]
    return {c.name: len(distinct_tokens(data[c.task_group].train[c.name], pad)) for c in clients}, []


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
