"""What follows from clients' training texts: rows of the token embedding that they hold, and of those that are frozen
the tokens that a server keeps and what they send of them in a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig
from atlas_cli.data.collate import batch_features, pad_token_id
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
    if all(kind.embedding == "table" for kind in config.client_kinds()):
        return {}, []
    clients = [
        (kind.task_group, name)
        for kind in config.client_kinds()
        if kind.embedding == "rows"
        for name in config.names_of(kind)
    ]
    try:
        data, pad = prepared_data(config, hf_config)
    except AtlasError as error:
        rows = assumed_rows(int(hf_config.vocab_size))
        note = f"embedding: rows is counted with {rows:,} rows, since its texts cannot be read ({error})"
        return {name: rows for _, name in clients}, [note]
    return {name: len(distinct_tokens(data[group].train[name], pad)) for group, name in clients}, []


class NewTexts(NamedTuple):
    """A step of a frozen client: the size of its batch, and the lengths of the texts that are new to the server."""

    batch: int
    lengths: list[int]


class KeptTexts(NamedTuple):
    """The training texts of a frozen client, whose activations the server comes to keep.

    Attributes:
        tokens: of those that differ.
        first: the steps of the first round, if it takes part in it; ``later``: of the first in which it has nothing
            left to send, empty where the run ends before.
    """

    tokens: int
    first: list[NewTexts]
    later: list[NewTexts]


def read_kept(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[dict[str, KeptTexts], list[str]]:
    """The training texts of each frozen client.

    Where texts cannot be read there are none, and a note.
    """
    if all(kind.learns != "frozen" for kind in config.client_kinds()):
        return {}, []
    kinds = [kind for kind in config.client_kinds() if kind.learns == "frozen"]
    try:
        data, _ = prepared_data(config, hf_config)
    except AtlasError as error:
        return {}, [
            f"not in the server's memory: activations kept for frozen clients; no texts can be read ({error})",
            "each round of a frozen client is counted with texts that are all new; it sends each once",
        ]
    found = {
        name: _kept_texts(config, kind._replace(name=name), data[kind.task_group])
        for kind in kinds
        for name in config.names_of(kind)
    }
    return found, [
        "the server's cut buffers hold the activations of all training texts of frozen clients, as after an epoch",
        "a frozen client sends each text once: its rounds are the first, and one after all its texts were sent",
    ]


def _kept_texts(config: ExperimentConfig, client: ClientSpec, group: PreparedGroup) -> KeptTexts:
    """Go through a client's batches until all its texts have come."""
    features, training = group.train[client.name], config.training
    texts = {_text(feature): len(feature["input_ids"]) for feature in features}
    left, first = dict(texts), list[NewTexts]()
    for before in range(0, training.rounds * training.local_steps, training.local_steps):
        all_sent, steps = not left, []
        for step in range(before, before + client.local_steps):
            batch = batch_features(group.task, features, training.batch_size, config.seed, client.name, step)
            new = [left.pop(text) for text in dict.fromkeys(map(_text, batch)) if text in left]
            steps.append(NewTexts(len(batch), new))
        first = first or steps
        if all_sent:
            return KeptTexts(sum(texts.values()), first, steps)
    return KeptTexts(sum(texts.values()), first, [])


def _text(feature: Feature) -> str:
    """What is the same for two texts of the same tokens, segments and labels."""
    return str([feature.get(name) for name in ("input_ids", "token_type_ids", "labels")])


def prepared_data(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[Mapping[str, PreparedGroup], int]:
    """The data of all task groups, and the token for padding.

    Raises:
        AtlasError: tokenizer or data cannot be read.
    """
    tokenizer = load_tokenizer(config.model)
    causal = family_of(hf_config, config.model.family).causal
    return prepare(config, tokenizer, causal), pad_token_id(tokenizer)


def read_tokens(
    config: ExperimentConfig, hf_config: PreTrainedConfig, clients: Mapping[str, str]
) -> tuple[dict[str, int], list[str]]:
    """The tokens of the training texts of some clients of which codecs keep something.

    Where texts cannot be read there are none, and a note.

    Args:
        clients: with their task groups.
    """
    if not clients:
        return {}, []
    try:
        data, _ = prepared_data(config, hf_config)
    except AtlasError as error:
        return {}, [f"not in any memory: what codecs keep of texts; no texts can be read ({error})"]
    found = {name: tokens_of(data[group].train[name]) for name, group in clients.items()}
    return found, ["cut buffers hold what codecs keep of all training texts, as after an epoch"]


def tokens_of(features: Iterable[Feature]) -> int:
    """The tokens of some texts, without padding."""
    return sum(len(feature["input_ids"]) for feature in features)


def most_rows(config: ExperimentConfig, hf_config: PreTrainedConfig) -> dict[str, int]:
    """By place of a client's template in the config, the most rows of a client of it that does not hold the table."""
    return most_by_entry(config, read_rows(config, hf_config)[0])


def most_by_entry(config: ExperimentConfig, counted: Mapping[str, int]) -> dict[str, int]:
    """From rows or tokens by client to the most of any client of a template, by place of the template in the config."""
    most: dict[str, int] = {}
    for kind in config.client_kinds() if counted else ():
        if of_kind := [counted[name] for name in config.names_of(kind) if name in counted]:
            most[kind.key] = max(of_kind)
    return most
