"""FedAvg of LoRA adapters as a Flower simulation. Runs in Flower's own environment, and imports nothing of atlas.

Started by ``contestants.flower``; reads the folder that it wrote. For every line of standard input it runs a round
(each client one epoch of its own texts, then the merge) and prints how many examples and real tokens were in it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel

from contestants.plain import Head, Whole, pad, with_adapters

FOLDER = "ATLAS_SPEED_FOLDER"  # environment variable that Ray's processes inherit
client_app = ClientApp()


@cache
def settings() -> dict[str, Any]:
    """What the clients and the server have to know: texts by client, batch size, rates, threads."""
    return json.loads((Path(os.environ[FOLDER]) / "settings.json").read_text(encoding="utf-8"))


@cache
def model() -> Whole:
    """Built once a process; each client then loads its adapters and head into it."""
    said, folder = settings(), Path(os.environ[FOLDER])
    torch.set_num_threads(said["threads"])
    backbone = AutoModel.from_pretrained(folder / "model").requires_grad_(False)
    adapters, head = load_file(folder / "adapters.safetensors"), load_file(folder / "head.safetensors")
    classifier = nn.Linear(head["weight"].shape[1], head["weight"].shape[0])
    classifier.load_state_dict(head)
    return Whole(with_adapters(backbone, adapters, said["alpha"]), Head(classifier, said["pooling"])).train()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on the client's texts, in a new order every round, padded to the longest of a batch."""
    said, whole = settings(), model()
    trained = whole.trained()
    given = message.content["arrays"].to_torch_state_dict()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(given[name])
    optimizer = torch.optim.AdamW(trained.values(), lr=said["lr"], weight_decay=0.0)
    client, number = int(context.node_config["partition-id"]), int(message.content["config"]["server-round"])
    texts = list(said["texts"][client])
    random.Random(f"{client} {number}").shuffle(texts)
    tokens = 0
    for start in range(0, len(texts), said["batch"]):
        batch = pad(texts[start : start + said["batch"]], said["pad"])
        whole(**batch)["loss"].backward()
        if said["norm"]:
            nn.utils.clip_grad_norm_(trained.values(), said["norm"])
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(batch["attention_mask"].sum())
    arrays = ArrayRecord({name: p.detach() for name, p in trained.items()})
    metrics = MetricRecord({"num-examples": len(texts), "tokens": tokens})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class OnRequest(FedAvg):
    """FedAvg that waits for a line before each round, and answers it after the merge."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg, when asked."""
        if not sys.stdin.readline():
            raise RuntimeError("nobody asks for a round any more")
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As FedAvg, and tell."""
        replies = list(replies)
        errors = [reply.error.reason for reply in replies if reply.has_error()]
        merged = super().aggregate_train(server_round, replies)
        counts = [reply.content["metrics"] for reply in replies if not reply.has_error()]
        sums = [int(sum(int(count[key]) for count in counts)) for key in ("num-examples", "tokens")]
        print(json.dumps({"samples": sums[0], "tokens": sums[1], "errors": errors[:1]}), flush=True)
        return merged


def serve(grid: Grid, context: Context) -> None:
    """Rounds without evaluation, as many as are asked for."""
    clients = len(settings()["texts"])
    strategy = OnRequest(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    initial = ArrayRecord({name: p.detach() for name, p in model().trained().items()})
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=settings()["rounds"])


def main() -> None:
    """Run the simulation, one client at a time."""
    os.environ[FOLDER] = sys.argv[1]
    threads = settings()["threads"]
    server_app = ServerApp()
    server_app.main()(serve)
    try:
        run_simulation(
            server_app,
            client_app,
            num_supernodes=len(settings()["texts"]),
            backend_config={
                "init_args": {"num_cpus": threads, "include_dashboard": False},
                "client_resources": {"num_cpus": threads, "num_gpus": 0.0},
            },
        )
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # threads of a simulation that failed would keep the process, and who waits for its rounds
