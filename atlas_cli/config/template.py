"""The text that ``atlas init`` writes: a config that loads as it is, with what can be changed beside it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.config.dump import scalar
from atlas_cli.printable import as_typed

_TEXT = """\
# yaml-language-server: $schema=experiment.schema.json
# atlas config schema > experiment.schema.json        (once: completion and checks in editors)
# atlas validate {file}
# atlas train {file}
# atlas train {file} training.rounds=3 clients.{client}.rank=4
name: {name}
seed: 0
mode: split-federated         # or a baseline: federated, centralized, local-only
device: auto                  # cpu, mps, cuda, cuda:0

model:
  name: {model}
  init: {init:<10}            # random: from a config alone; auto: random where the weights cannot be reached
{tokenizer}  # split_layer: 2            # blocks kept on the client; default: the middle of the model
  # dtype: bfloat16           # of the frozen weights

lora:
  rank: 8                     # every client layer; or by layer: {{0: 8, 1: 16}}
  alpha: 16
  dropout: 0.0
  targets: auto               # or the ends of names: [q_proj, v_proj]

{about}
task_groups:
{groups}
clients:
{clients}
partition:
  scheme: {scheme:<15}     # iid, dirichlet-label, dirichlet-quantity, column or explicit
  alpha: 0.5                  # of dirichlet-*: smaller is more skewed

training:
  rounds: 10
  local_steps: 8              # per client and round
  batch_size: 8
  max_length: {max_length:<4}            # tokens; longer examples are cut
  cohort: 1.0                 # share of each group's clients in a round
  server_update: pooled       # or sequential, per-client
  labels: server              # client: head and labels stay on the client (U-shaped)
  client_optimizer: {{name: adamw, lr: 1e-3}}
  server_optimizer: {{name: adamw, lr: 1e-3}}
  # on_nonfinite: drop-client # default: stop
  # min_clients: 2            # a round that fewer finish ends the run

aggregation: {{method: delta-svd}}
# screen: {{max_norm_ratio: 3.0}}                      # leave out updates far above the median norm
# privacy: {{labels: {{epsilon: 2}}, pad_lengths: 16}}     # what leaves a client; epsilon by channel
#   and budget: {{epsilon: 8, then: stop}}               # end before the round that would tell more; or freeze clients
# faults: {{drop: 0.3, crash_at: {{{client}: {{round: 2}}}}}}   # for experiments: clients that fail
# holdout: {{validation: 0.1}}          # rows to choose the best round on, and for training.early_stopping
evaluation: {{every: 1}}
checkpoints: {{every: 1, keep: 2}}    # atlas train --resume RUN goes on from them
# audit: {{record: {{rounds: [1]}}}}      # keep the messages of a round for atlas audit RUN
output: {{dir: runs}}
"""

_CORPORA = """\
# Corpora: trec-questions, sms-spam, movie-sentiment, amazon-sentiment, bbc-news, 20newsgroups, reuters-r8, reuters-r52.
# Own text: {files: data/mails.csv, text: body, label: kind}, or {hub: imdb, text: text, label: label}."""

_DECODER_GROUP = """\
  # news:
  #   task: causal-lm
  #   data: {corpus: bbc-news}
"""
_DECODER_CLIENT = """\
  # desktop-1: {task_group: news, rank: 8}
"""


@dataclass(frozen=True)
class GroupStart:
    """A task group: its task, and the keys of its data with their values."""

    task: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class ClientStart:
    """A line of clients: the keys of one, and what is said beside it."""

    keys: Mapping[str, str | int]
    comment: str = ""


CORPUS_GROUPS = {
    "questions": GroupStart("sequence-classification", {"corpus": "trec-questions"}),
    "spam": GroupStart("sequence-classification", {"corpus": "sms-spam"}),
}
CORPUS_CLIENTS = {
    "phone-1": ClientStart(
        {"task_group": "questions", "rank": 4}, "short of memory: dtype: bfloat16, checkpointing: true"
    ),
    "laptop-1": ClientStart({"task_group": "questions", "rank": 16}),
    "phones": ClientStart({"task_group": "spam", "rank": 4, "count": 2}, "phones-1 and phones-2"),
    "laptop-2": ClientStart({"task_group": "spam"}, "rank: lora.rank"),
}


@dataclass(frozen=True)
class Start:
    """What a new config says; by default, classification of two packaged corpora.

    Attributes:
        model, init, tokenizer: as under ``model``.
        name: of the experiment; default: made of the model's.
        groups, clients: by name.
        about: lines on the data, shown above the groups.
        guessed: what of the data was guessed, and how to say otherwise; empty where nothing was.
        scheme, max_length: as in ``partition`` and ``training``.
        decoder: show a language modelling group, too, commented out.
    """

    model: str
    init: str = "pretrained"
    tokenizer: str | None = None
    name: str | None = None
    groups: Mapping[str, GroupStart] | None = None
    clients: Mapping[str, ClientStart] | None = None
    about: Sequence[str] = ()
    guessed: str = ""
    scheme: str = "dirichlet-label"
    max_length: int = 128
    decoder: bool = False


def starting_config(start: Start, file: str = "experiment.yaml") -> str:
    """A commented config; ``file`` is named in the commands of its header."""
    clients = start.clients or CORPUS_CLIENTS
    own = start.groups is not None
    return _TEXT.format(
        name=scalar(start.name or name_for(start.model)),
        model=scalar(start.model),
        init=start.init,
        tokenizer=f"  tokenizer: {scalar(start.tokenizer)}\n" if start.tokenizer else "",
        file=as_typed(file),
        about="\n".join(f"# {line}" for line in start.about) if own else _CORPORA,
        groups="".join(_group(name, group) for name, group in (start.groups or CORPUS_GROUPS).items())
        + _DECODER_GROUP * (start.decoder and not own),
        client=next(name + ("-1" if "count" in each.keys else "") for name, each in clients.items()),
        clients="".join(_client(name, each) for name, each in clients.items())
        + _DECODER_CLIENT * (start.decoder and not own),
        scheme=start.scheme,
        max_length=start.max_length,
    )


def name_for(path: str, default: str = "experiment") -> str:
    """A name of an experiment or group, made of the last part of a path or of a model's name.

    Names are of ASCII letters, as folders have them; a letter with an accent loses the accent alone.
    """
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", last) if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:80] or default


def _group(name: str, group: GroupStart) -> str:
    if list(group.data) == ["corpus"]:
        data = f"    data: {{corpus: {group.data['corpus']}}}\n"
    else:
        data = "    data:\n" + "".join(f"      {key}: {scalar(value)}\n" for key, value in group.data.items())
    return f"  {scalar(name)}:\n    task: {group.task}\n{data}"


def _client(name: str, client: ClientStart) -> str:
    keys = ", ".join(f"{key}: {value}" for key, value in client.keys.items())
    line = f"  {scalar(name)}: {{{keys}}}"
    return f"{line:<54} # {client.comment}\n" if client.comment else f"{line}\n"
