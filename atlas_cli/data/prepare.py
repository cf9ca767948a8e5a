"""Prepares the data of a config: reads rows, partitions them among clients and tokenizes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.cycle_collection import without_collection
from atlas_cli.data.class_names import count_labels, counts_sentence
from atlas_cli.data.collate import collate, parts_of
from atlas_cli.data.length_fit import Fit, fit_notes, only_whole
from atlas_cli.data.partitions.schemes import Partition, partition, split_local_test
from atlas_cli.data.read import read_group
from atlas_cli.data.rows import GroupData, Rows, identity
from atlas_cli.data.token_cache import encode
from atlas_cli.errors import ConfigError, during
from atlas_cli.hashing import sha256_text
from atlas_cli.models.files.tokenizer_file import other_tokens
from atlas_cli.printable import listed
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask, Feature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_COLUMNS = 10  # names that a note lists


@dataclass(frozen=True)
class PreparedGroup:
    """A task group's examples.

    Attributes:
        data: the rows, before tokenization.
        task: the task that encodes them.
        shards: row numbers of every client, its local test part included.
        partition: the rows of each client, with the number of unused rows and the column's values by client.
        train, local_test: features by client; ``Feature.row`` is a row of ``data.train``.
        examples: how many training examples each client has, its local test part left out.
        fits: how training rows (including local tests), test and validation rows fit ``max_length``.
        test, validation: features of the group's held-out parts, seen by no client; there may be no validation part.
        tokens_note: what is unusual about the tokens of these texts.
        unread_note: names the unused columns of the source.
        overlaps: notes on test texts on which groups merged with this one train.
        max_length: in tokens, of each feature.
        on_truncated: what is done with longer rows.
        undivided: ``train``, where it has all rows of ``shards``; another object where features were replaced since.
    """

    data: GroupData
    task: BaseTask
    shards: Mapping[str, list[int]]
    train: Mapping[str, list[Feature]]
    local_test: Mapping[str, list[Feature]]
    test: list[Feature]
    partition: Partition
    examples: Mapping[str, int]
    fits: Mapping[str, Fit]
    max_length: int
    on_truncated: str
    tokens_note: str | None = None
    unread_note: str | None = None
    overlaps: Sequence[str] = ()
    validation: list[Feature] = field(default_factory=list)
    undivided: Mapping[str, list[Feature]] | None = field(default=None, repr=False, compare=False)

    def training_rows(self) -> Iterator[Sequence[int]]:
        """The rows of each client that it trains on; one of which there are several features may be there as often."""
        if self.undivided is self.train:  # a million features are not looked at
            return iter(self.shards.values())
        return ([feature["row"] for feature in features] for features in self.train.values())

    @property
    def scored(self) -> dict[str, list[Feature]]:
        """The parts that the group's model is scored on: ``test``, and ``validation`` where there is one."""
        return {"test": self.test, **({"validation": self.validation} if self.validation else {})}

    @property
    def notes(self) -> list[str]:
        """Sentences on the group's rows that are shown with its sizes."""
        found = [f"{self.data.origin}: {self.data.account.sentence()}", *self.data.notes, *self.partition.notes]
        found += [self.unread_note] if self.unread_note is not None else []
        found += fit_notes(self.fits, self.max_length, self.on_truncated)
        found += [self.tokens_note] if self.tokens_note is not None else []
        return [*found, *self.overlaps]


def class_counts(group: PreparedGroup) -> str:
    """How often each class occurs in training and held-out rows: ``ham 40, spam 8 (test: ham 10, spam 2)``."""
    train = count_labels(group.data.train, group.task.labels_in)
    named = {name: train[name] for name in group.data.classes}  # those of no row, too
    held_out = {part: count_labels(rows, group.task.labels_in) for part, rows in group.data.held_out.items()}
    said = "; ".join(f"{part}: {counts_sentence(counts)}" for part, counts in held_out.items())
    return f"{counts_sentence(named)} ({said})"


def prepare(config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase, causal: bool) -> dict[str, PreparedGroup]:
    """Read, partition and tokenize every task group; ``causal`` picks the default pooling.

    Raises:
        ConfigError: the data does not fit the config: columns, labels, empty shards.
        ResourceError: a file, corpus or hub data set is missing.
    """
    groups = {}
    for name in config.task_groups:
        with during(f"task group {name}"), without_collection():
            groups[name] = _prepare_group(config, name, tokenizer, causal)
    clusters = config.clustering is not None and config.clustering.by != "oracle"
    if clusters or config.aggregation.cross_group.strength > 0:
        overlaps = overlap_notes({name: group.data for name, group in groups.items()})
        groups = {name: replace(group, overlaps=overlaps[name]) for name, group in groups.items()}
    return groups


def _prepare_group(
    config: ExperimentConfig, name: str, tokenizer: PreTrainedTokenizerBase, causal: bool
) -> PreparedGroup:
    group = config.task_groups[name]
    seed = config.rows_seed
    data = read_group(name, group, seed, config.holdout)
    pooling = group.pooling
    if pooling == "auto":
        pooling = "last" if causal else "mean"
    rule = config.training.on_truncated
    task = build_task(group.task, data.classes, pooling, keep_end=rule == "keep-end", metric=group.metric)
    kinds = (kind for kind in config.client_kinds() if kind.task_group == name)
    clients = [client for kind in kinds for client in config.names_of(kind)]
    by_label = config.partition.scheme == "dirichlet-label"  # no other scheme looks at labels
    labels = [task.labels_in(row)[0] if task.one_class else None for row in data.train] if by_label else []
    dealt = partition(data.train, clients, config.partition, labels, seed, name, data.numbered)
    parts = {"training": data.train, **data.held_out}
    encoded, *scored = _encoded(config, task, parts, tokenizer)
    features_of = _by_rows(encoded)
    train, local_test, examples, whole = {}, {}, {}, all(encoded)
    share, together = config.partition.local_test, task.together
    for client, rows in dealt.shards.items():
        for_training, for_test = split_local_test(rows, share, seed, client) if share else (rows, [])
        train[client], local_test[client] = features_of(for_training), features_of(for_test) if for_test else []
        examples[client] = len(for_training) if whole else sum(bool(encoded[row]) for row in for_training)
        if not train[client]:
            raise ConfigError(
                f"client {client} has no usable training example: all {len(for_training)} are longer than"
                f" training.max_length {config.training.max_length}, and on_truncated is {rule}",
                key=f"task_groups.{name}.data",
            )
        most = max(map(len, parts_of(task, train[client]))) if together else 1
        if config.training.batch_size < most:
            raise ConfigError(
                f"{config.training.batch_size} is less than the {most} texts of a row, which are in one batch; set it"
                f" to {most} or more",
                key="training.batch_size",
            )
        usable = len(rows) if whole else sum(bool(encoded[row]) for row in rows)
        if usable < (least := config.partition.min_examples):
            raise ConfigError(
                f"client {client} has {usable} usable examples among its {len(rows)}, at least {least} are needed: the"
                f" others are longer than training.max_length {config.training.max_length}, and on_truncated is {rule}",
                key="partition.min_examples",
                beside=f"task_groups.{name}",
            )
    held_out = {
        part: [f for features in rows for f in features] for part, rows in zip(data.held_out, scored, strict=True)
    }
    for part, features in held_out.items():
        if not features:
            raise ConfigError(
                f"no {part} example is left: all {len(parts[part])} {part} rows are longer than training.max_length"
                f" {config.training.max_length}, and on_truncated is {rule}",
                key=f"task_groups.{name}.data",
            )
    first = [features[0] for features in held_out.values()]
    collate(task, [*next(iter(train.values()))[:1], *first], 0)  # labels are what the task says, before a run starts
    note = other_tokens(tokenizer, (row for rows in parts.values() for row in rows))
    length = config.training.max_length
    all_dealt = [encoded[row] for rows in dealt.shards.values() for row in rows] if dealt.unused else encoded
    fits = {"training": Fit.of_rows(all_dealt)}
    fits |= {part: Fit.of_rows(rows) for part, rows in zip(data.held_out, scored, strict=True)}
    unread = (
        _unread_note(data, {config.partition.column, group.data.split_by}) if group.data.source != "corpus" else None
    )
    return PreparedGroup(
        *(data, task, dealt.shards, train, local_test, held_out["test"], dealt, examples, fits, length, rule),
        tokens_note=note,
        unread_note=unread,
        validation=held_out.get("validation", []),
        undivided=train if whole and not any(local_test.values()) else None,
    )


def _encoded(
    config: ExperimentConfig, task: BaseTask, parts: Mapping[str, Rows], tokenizer: PreTrainedTokenizerBase
) -> list[list[list[Feature]]]:
    """By part, the features of each of its rows, whose number they have."""
    sizes, length = {part: len(rows) for part, rows in parts.items()}, config.training.max_length
    encoded = encode(task, [row for rows in parts.values() for row in rows], tokenizer, length)
    if (rule := config.training.on_truncated) in ("drop", "error"):
        encoded = only_whole(encoded, rule == "error", sizes, length)
    by_row = iter(encoded)
    found = [[next(by_row) for _ in range(size)] for size in sizes.values()]
    for part in found:
        for row, features in enumerate(part):
            for feature in features:
                feature["row"] = row
    return found


def _by_rows(encoded: Sequence[list[Feature]]) -> Callable[[Sequence[int]], list[Feature]]:
    """What gives the features of some rows: of rows of one each, without a look at the list of each row."""
    if set(map(len, encoded)) == {1}:
        features = list(chain.from_iterable(encoded))
        return lambda rows: [features[row] for row in rows]
    return lambda rows: [feature for row in rows for feature in encoded[row]]


def _unread_note(data: GroupData, used: Collection[str | None]) -> str | None:
    """A source's columns that are no field of the task and not what rows are dealt or held out by; None without any."""
    read = {*data.columns, *data.columns.values(), *used}
    unread = [column for column in dict.fromkeys(chain.from_iterable(data.train)) if column not in read]
    shown = listed((repr(str(name)) for name in unread), SHOWN_COLUMNS)
    return f"columns that are not read: {shown}" if unread else None


_ANSWERS = ("label", "tags", "answer", "answers", "response")


def overlap_notes(groups: Mapping[str, GroupData]) -> dict[str, list[str]]:
    """One sentence for each pair of groups where training texts of one are test or validation texts of the other.

    Such texts matter where something learned in one group reaches the other. They are the rule for groups that read the
    same file, as each holds out rows of its own.
    """
    trained = {name: {_text(row, data) for row in data.train} for name, data in groups.items()}
    notes: dict[str, list[str]] = {name: [] for name in groups}
    for name, data in groups.items():
        for part, rows in data.held_out.items():
            texts = [_text(row, data) for row in rows]
            for other in groups:
                count = sum(text in trained[other] for text in texts) if other != name else 0
                if count:
                    notes[name].append(
                        f"{count:,} of {len(texts):,} {part} texts are training texts of task group {other}, whose"
                        f" adapters are merged with this one's; give both groups the same {part} part ({part}_files)"
                    )
    return notes


def _text(row: Mapping[str, Any], data: GroupData) -> str:
    return identity(row, [field for field in data.columns if field not in _ANSWERS])


def row_hashes(group: PreparedGroup) -> dict[str, list[str]]:
    """By client, a short hash of what each of its training rows says, labels left out: equal texts have equal ones."""
    task = type(group.task)
    fields = [f for f in (*task.fields, *task.optional_fields) if f not in task.label_fields] or list(task.fields)
    found: dict[str, list[str]] = {}
    for client, features in group.train.items():
        rows = sorted({feature["row"] for feature in features})
        found[client] = [sha256_text(identity(group.data.train[row], fields))[:16] for row in rows]
    return found
