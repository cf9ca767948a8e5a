"""What generating texts took: bytes, and seconds here and on the run's devices, as sentences, a table and a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from atlas_cli.federation.parties.generation import Decoding, Generated
from atlas_cli.inference.generation.sizing import DeviceTime
from atlas_cli.inference.generation.texts import TextGeneration
from atlas_cli.printable import listed
from atlas_cli.reports.fitted import Column, fitted_table


def sentences(done: TextGeneration) -> list[str]:
    """Tokens, seconds of this machine, and bytes."""
    texts, tokens = sum(len(batch.texts) for batch in done.batches), done.tokens
    lines = [
        f"{texts:,} {'text' if texts == 1 else 'texts'} of {tokens:,} tokens in {done.seconds:.3g} s on this machine:"
        f" {done.seconds / tokens:.3g} s a token"
    ]
    if done.split:
        sent = done.bytes()
        each = ", ".join(f"{way} {size:,} bytes ({size / tokens:,.0f} a token)" for way, size in sent.items())
        lines.append(f"sent {each}; the prompts are in it")
    return lines


def device_table(times: Sequence[DeviceTime], width: int) -> Table:
    """A row for each kind of device."""

    def seconds(values: Sequence[float | None]) -> list[str]:
        return ["-" if value is None else f"{value:.3g}" for value in values]

    columns = [
        Column("device", [time.device for time in times]),
        Column("first\ntoken", seconds([time.first_token for time in times]), right=True),
        Column("each\nafter it", seconds([time.next_token for time in times]), right=True),
        Column("all", seconds([time.seconds for time in times]), right=True),
        Column("client", seconds([time.compute for time in times]), right=True, spare=2),
        Column("upload", seconds([time.upload for time in times]), right=True, spare=2),
        Column("server", seconds([time.server for time in times]), right=True, spare=2),
        Column("download", seconds([time.download for time in times]), right=True, spare=2),
        Column("joules", seconds([time.joules for time in times]), right=True, spare=3),
        Column("clients", [listed(time.clients) for time in times], folds=True, spare=1),
    ]
    caption = "seconds on the virtual clock; first token: from a batch of prompts to a token of each"
    return fitted_table(columns, width, caption=caption)


def generation_record(
    done: TextGeneration,
    decoding: Decoding,
    found: Sequence[Generated],
    times: Sequence[DeviceTime],
    notes: Sequence[str],
) -> dict[str, Any]:
    """All of it, for ``--json``."""
    loaded, tokens = done.loaded, done.tokens
    sent: dict[str, float] = {}
    for way, size in done.bytes().items():
        sent |= {way: size, f"{way}_a_token": size / tokens}
    return {
        "run": str(loaded.run.path),
        "model_of": str(loaded.owner),
        "round": loaded.round,
        "task": loaded.origin.task,
        "split_layer": loaded.cut if done.split else None,
        "decoding": {**asdict(decoding), "stop": list(decoding.stop)},
        "texts": [
            {
                "generated": text.text,
                "generated_tokens": len(text.tokens),
                "ended_by": text.ended,
                "prompt_tokens": text.prompt_tokens,
            }
            for text in found
        ],
        "tokens": tokens,
        "seconds": done.seconds,
        "seconds_a_token": done.seconds / tokens,
        "tokens_chosen_by": "client" if done.samples_at_client else "server",
        "bytes": sent if done.split else None,
        "virtual_clock": [asdict(time) for time in times],
        "notes": list(notes),
    }
