"""The text of ``atlas init MODEL``: a config that loads as it is, with what can be changed beside it."""

from __future__ import annotations

import re

from atlas_cli.config.dump import scalar

_DECODERS = re.compile(r"gpt|llama|smollm|qwen|mistral", re.IGNORECASE)

_TEXT = """\
# yaml-language-server: $schema=experiment.schema.json
# atlas config schema > experiment.schema.json        (once: completion and checks in editors)
# atlas validate {file}
# atlas train {file}
# atlas train {file} training.rounds=3 clients.phone-1.rank=4
name: {name}
seed: 0
mode: split-federated         # or a baseline: federated, centralized, local-only
device: auto                  # cpu, mps, cuda, cuda:0

model:
  name: {model}
  init: pretrained            # random: from a config alone; auto: random where the weights cannot be reached
  # split_layer: 2            # blocks kept on the client; default: the middle of the model
  # dtype: bfloat16           # of the frozen weights

lora:
  rank: 8                     # every client layer; or by layer: {{0: 8, 1: 16}}
  alpha: 16
  dropout: 0.0
  targets: auto               # or the ends of names: [q_proj, v_proj]

# Corpora: trec-questions, sms-spam, movie-sentiment, amazon-sentiment, bbc-news, 20newsgroups, reuters-r8, reuters-r52.
# Own text: {{files: data/mails.csv, text: body, label: kind}}, or {{hub: imdb, text: text, label: label}}.
task_groups:
  questions:
    task: sequence-classification
    data: {{corpus: trec-questions}}
  spam:
    task: sequence-classification
    data: {{corpus: sms-spam}}
{decoder_group}
clients:
  phone-1: {{task_group: questions, rank: 4}}            # short of memory: dtype: bfloat16, checkpointing: true
  laptop-1: {{task_group: questions, rank: 16}}
  phones: {{task_group: spam, rank: 4, count: 2}}      # phones-1 and phones-2
  laptop-2: {{task_group: spam}}                       # rank: lora.rank
{decoder_client}
partition:
  scheme: dirichlet-label     # or iid, dirichlet-quantity, column, explicit
  alpha: 0.5                  # smaller is more skewed

training:
  rounds: 10
  local_steps: 8              # per client and round
  batch_size: 8
  max_length: 128             # tokens; longer examples are cut
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
# faults: {{drop: 0.3, crash_at: {{phone-1: {{round: 2}}}}}}   # for experiments: clients that fail
evaluation: {{every: 1}}
checkpoints: {{every: 1, keep: 2}}    # atlas train --resume RUN goes on from them
# audit: {{record: {{rounds: [1]}}}}      # keep the messages of a round for atlas audit RUN
output: {{dir: runs}}
"""

_DECODER_GROUP = """\
  # news:
  #   task: causal-lm
  #   data: {corpus: bbc-news}
"""
_DECODER_CLIENT = """\
  # desktop-1: {task_group: news, rank: 8}
"""


def starting_config(model: str, file: str = "experiment.yaml") -> str:
    """A commented config for a model.

    Args:
        model: any value of ``model.name``; names that look like a decoder's get a commented language modelling group.
        file: the file name in the commands of the header.
    """
    stem = re.split(r"[/\\\\]", model.rstrip("/\\"))[-1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:80] or "experiment"
    decoder = bool(_DECODERS.search(model))
    return _TEXT.format(
        name=scalar(name),
        model=scalar(model),
        file=file,
        decoder_group=_DECODER_GROUP if decoder else "",
        decoder_client=_DECODER_CLIENT if decoder else "",
    )
