"""``atlas generate``: text that a run's causal model generates through its split."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import Client, Device, Group, Json, Round, Run

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from atlas_cli.federation.parties.generation import Decoding, Generated
    from atlas_cli.inference.generation.prompts import Prompts
    from atlas_cli.inference.generation.texts import TextGeneration
    from atlas_cli.inference.loaded_model import LoadedModel

SECTION = "Use a trained model"
EXAMPLES = (
    "atlas generate runs/20260131-120000_chat_0 --prompt 'Name a river.'",
    "atlas generate runs/20260131-120000_chat_0 --input prompts.jsonl --output answers.jsonl --batch-size 8",
    "atlas generate runs/20260131-120000_chat_0 --prompt 'Once' --temperature 0.8 --top-p 0.95 --seed 1",
)
GENERATED = ("generated", "generated_tokens", "ended_by")  # columns of what comes out
_HOW = "How tokens are chosen"


def command(
    run: Run,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Go on from this text; may be given several times."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="FILE", help="Go on from each row of a file, or - for lines of standard input."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A new file of JSON lines: the columns of the input, and what was generated."
        ),
    ] = None,
    group: Group = None,
    client: Client = None,
    round_: Round = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_HOW,
            min=1,
            help="The most tokens of a text; default: 64, or as many as the model has positions for.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_HOW, help="Draw tokens; logits are divided by this. Default: take the likeliest."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(rich_help_panel=_HOW, min=1, help="Draw from the so many likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(rich_help_panel=_HOW, help="Draw from the likeliest tokens that together have this probability."),
    ] = None,
    beams: Annotated[int, typer.Option(rich_help_panel=_HOW, min=1, help="Search so many beams.")] = 1,
    seed: Annotated[int, typer.Option(rich_help_panel=_HOW, min=0, help="Of the draws.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=_HOW, metavar="TEXT", help="A text ends before this; may be given several times."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are computed together.")] = 8,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Generate text with the causal model of RUN, through its split: each side keeps keys and values of its blocks.

    Prompts get the form that the task trained with: of instruction, the tokenizer's chat template. Without
    --temperature, --top-k and --top-p each token is the likeliest. Standard output has the text of one --prompt, or
    JSON lines for several and for --input; standard error what crossed the cut, and the time on the run's devices and
    links.
    """
    from atlas_cli.errors import ConfigError
    from atlas_cli.federation.parties.generation import Decoding
    from atlas_cli.inference.adapter_folders import choose_owner
    from atlas_cli.inference.generation.prompts import given_prompts, prompts_of_file, room
    from atlas_cli.inference.generation.texts import TextGeneration, require_text
    from atlas_cli.inference.loaded_model import open_model
    from atlas_cli.inference.prediction_files import require_new, whole_file
    from atlas_cli.inference.round_choice import chosen_round
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.runs.directory import open_run
    from atlas_cli.runs.resumable import config_of

    if bool(prompt) == (source is not None):
        raise ConfigError("give one of --prompt TEXT and --input FILE")
    for name, value, most in (("--temperature", temperature, None), ("--top-p", top_p, 1.0)):
        if value is not None and not 0 < value <= (most or value):
            raise ConfigError(f"{value:g} is not above 0" + (f" and at most {most:g}" if most else ""), key=name)
    if "" in (stop or ()):
        raise ConfigError("it is empty, and every text has that; give some text, or leave it out", key="--stop")
    if output is not None:
        require_new(output)
    with busy(f"opening {run}"):
        folder = open_run(run)
        number = chosen_round(folder, choose_owner(config_of(folder), group, client), round_)
        loaded = open_model(run, group=group, client=client, round_number=number, device=device)
        require_text(loaded)
    prompts = given_prompts(loaded, prompt) if prompt else prompts_of_file(loaded, source or "")
    new = room(loaded, prompts, max_new_tokens)
    decoding = Decoding(new, temperature, top_k, top_p, beams, seed, tuple(stop or ()))
    generation = TextGeneration(loaded, decoding)
    plain = len(prompt or ()) == 1 and output is None and not as_json
    streamer = _streamer(loaded) if plain and sys.stdout.isatty() and beams == 1 and not stop else None
    names = prompts.new_columns(GENERATED)
    found: list[Generated] = []
    with whole_file(output) if output is not None else nullcontext(sys.stdout) as stream:
        for row, text in zip(prompts.rows, generation.texts(prompts.tokens, batch_size, streamer), strict=True):
            found.append(text)
            if plain:
                print(_shown(text.text) if streamer is None else "", file=stream)
            elif output is not None or not as_json:
                print(_line(row, text, names), file=stream)
    if output is not None and not as_json:
        Terminal(stderr=True).say(f"wrote {output}")
    _report(generation, decoding, prompts, found, as_json)


def _streamer(loaded: LoadedModel) -> BaseStreamer:
    """Shows tokens as they are chosen."""
    from transformers import TextStreamer

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            print(_shown(text), end="", flush=True)

    return Shown(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)


def _shown(text: str) -> str:
    """The text itself in a file or a pipe; on a terminal without what would steer it."""
    from atlas_cli.printable import printable

    return printable(text) if sys.stdout.isatty() else text


def _line(row: Mapping[str, Any], text: Generated, names: Mapping[str, str]) -> str:
    values = (text.text, len(text.tokens), text.ended)
    more = {names[name]: value for name, value in zip(GENERATED, values, strict=True)}
    return json.dumps({**row, **more}, ensure_ascii=False, default=str)


def _report(
    generation: TextGeneration, decoding: Decoding, prompts: Prompts, found: Sequence[Generated], as_json: bool
) -> None:
    """What crossed the cut and how long it took."""
    from atlas_cli.cli._tables.generation import device_table, generation_record, sentences
    from atlas_cli.inference.generation.sizing import device_times
    from atlas_cli.reports.terminal import Terminal

    times, notes = device_times(generation)
    renamed = [f"{name} is in {new}" for name, new in prompts.new_columns(GENERATED).items() if new != name]
    columns = [f"rows have columns of these names, so {', '.join(renamed)}"] if renamed else []
    notes = [*prompts.notes, *columns, *generation.notes(), *notes]
    if as_json:
        typer.echo(json.dumps(generation_record(generation, decoding, found, times, notes), indent=2))
        return
    console = Terminal(stderr=True)
    for line in [*(f"note: {note}" for note in notes), *sentences(generation)]:
        console.say(line)
    if times:
        console.print(device_table(times, console.width))
