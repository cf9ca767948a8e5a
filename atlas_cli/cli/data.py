"""``atlas data``: what each client will train and test on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides
from atlas_cli.printable import on_one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from atlas_cli.data.length_fit import Fit
    from atlas_cli.data.prepare import PreparedGroup
    from atlas_cli.tasks.contract import Feature

SECTION = "Plan and check"
EXAMPLES = ("atlas data quickstart --samples 1",)


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=0, help="Decoded examples to show for each client.")] = 2,
    as_json: Json = False,
) -> None:
    """Show what each client has: counts, labels, token lengths, truncation, and decoded samples as the model gets them.

    No weights are loaded.
    """
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.data.prepare import class_counts, prepare
    from atlas_cli.models.families import family_of
    from atlas_cli.models.files.resolve import model_config
    from atlas_cli.models.files.tokenizer_file import require_vocabulary
    from atlas_cli.models.frozen.load import load_tokenizer
    from atlas_cli.reports.tables import data_table
    from atlas_cli.reports.terminal import Terminal, busy

    loaded = load_config(file, overrides or [])
    with locating(loaded), busy(f"reading the data of {file}"):
        hf_config = model_config(loaded.config.model)[0]
        family = family_of(hf_config, loaded.config.model.family)
        tokenizer = load_tokenizer(loaded.config.model)
        require_vocabulary(tokenizer, hf_config.vocab_size)
        groups = prepare(loaded.config, tokenizer, family.causal)
    if as_json:
        typer.echo(json.dumps({name: _record(group, tokenizer, samples) for name, group in groups.items()}, indent=2))
        return
    console = Terminal()
    for name, group in groups.items():
        sizes = [f"{len(group.data.train)} training rows"]
        sizes += [f"{_size(features)} {part} examples" for part, features in group.scored.items()]
        title = ", ".join([f"{name}: {group.data.origin}", *sizes])
        rows = [_row(client, group) for client in group.shards]
        console.print(data_table(title, rows))
        console.say(f"  {_columns(group)}")
        if group.data.classes:
            console.say(f"  {len(group.data.classes)} classes: {class_counts(group)}")
        for note in group.notes:
            console.say(f"  note: {note}")
        for client in group.shards:
            for feature in group.train[client][:samples]:
                console.say(f"  {client}: {_sample(feature, tokenizer, group)}")


def _record(group: PreparedGroup, tokenizer: PreTrainedTokenizerBase, samples: int) -> dict[str, Any]:
    """Of a task group, for ``--json``."""
    from atlas_cli.data.prepare import class_counts
    from atlas_cli.tasks.contract import count_examples

    return {
        "origin": group.data.origin,
        "training_rows": len(group.data.train),
        "test_examples": count_examples(group.test),
        "validation_examples": count_examples(group.validation),
        "columns": dict(group.data.columns),
        "classes": list(group.data.classes),
        "class_counts": class_counts(group) if group.data.classes else None,
        "notes": list(group.notes),
        "clients": {
            client: {
                "training_examples": count_examples(group.train[client]),
                "local_test_examples": count_examples(group.local_test[client]),
                "tokens": dict(zip(("min", "median", "max"), _lengths(group.train[client]), strict=True)),
                "truncated": _fit(client, group).cut,
                "left_out": _fit(client, group).left_out,
                "samples": [_sample(feature, tokenizer, group) for feature in group.train[client][:samples]],
            }
            for client in group.shards
        },
    }


def _columns(group: PreparedGroup) -> str:
    """Which column is which field."""
    read = group.data.columns.items()
    return "columns: " + ", ".join(f if f == column else f"{f} is {on_one_line(column)}" for f, column in read)


def _size(features: Sequence[Feature]) -> str:
    """How many examples, and where some are read in several windows, how many those are."""
    from atlas_cli.tasks.contract import count_examples

    examples = count_examples(features)
    return f"{examples:,}" if examples == len(features) else f"{examples:,} ({len(features):,} windows)"


def _row(client: str, group: PreparedGroup) -> tuple[str, str, str, str, str, str]:
    fit = _fit(client, group)
    return (
        client,
        _size(group.train[client]),
        _size(group.local_test[client]),
        group.task.label_summary([group.data.train[row] for row in group.shards[client]]),
        " / ".join(str(length) for length in _lengths(group.train[client])),
        f"{fit.cut} ({fit.cut / max(1, fit.rows - fit.left_out):.0%})"
        + f", {fit.left_out} left out" * (fit.left_out > 0),
    )


def _lengths(features: Sequence[Feature]) -> tuple[int, int, int]:
    """The least, the median and the most tokens."""
    lengths = sorted(len(feature["input_ids"]) for feature in features)
    return lengths[0], lengths[len(lengths) // 2], lengths[-1]


def _fit(client: str, group: PreparedGroup) -> Fit:
    from atlas_cli.data.length_fit import Fit

    return Fit.of(len(group.shards[client]), [*group.train[client], *group.local_test[client]])


def _sample(feature: Feature, tokenizer: PreTrainedTokenizerBase, group: PreparedGroup) -> str:
    return on_one_line(f"{tokenizer.decode(feature['input_ids'])}  {group.task.label_text(feature)}")
