"""The round loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from atlas_cli.aggregation._mixing import laplacian_matrix, softmax_matrix
from atlas_cli.engines.in_process import Trained, run_round
from atlas_cli.errors import AtlasError
from atlas_cli.federation.build import Federation
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.clusters import Clustered, cluster_clients
from atlas_cli.federation.cohort import sample_cohort
from atlas_cli.federation.evaluation import mean_metrics
from atlas_cli.federation.protocol import Ledger, Message
from atlas_cli.federation.pruning import prune
from atlas_cli.federation.recorder import Recorder, Scores


def train(
    federation: Federation,
    recorder: Recorder,
    checkpoint: Callable[[int], None] = lambda number: None,
    done: int | None = None,
) -> None:
    """Run the rounds of a federation and record each.

    Args:
        checkpoint: called after every round, round 0 (before training) included.
        done: rounds that a restored federation has behind it; None starts anew.

    Raises:
        NonFiniteError: a loss, activation or gradient; nothing was stepped with it.
        AtlasError: a client does not hold what it was delivered, or bytes do not match their closed form.
    """
    training, aggregator = federation.config.training, federation.aggregator
    members = aggregator.members
    if done is None:
        ledger = set_up(federation, recorder.clusters)
        require_matching(ledger)
        recorder.round(0, ledger, evaluate(federation))
        checkpoint(0)

    for number in range((done or 0) + 1, training.rounds + 1):
        ledger = Ledger()
        recorder.clusters(cluster_clients(federation, number, ledger))
        cohort = sample_cohort(federation, number)
        deliver(federation, cohort, ledger)  # those that missed a round catch up
        recorder.start_round(number)
        trained = run_round(federation, cohort, number, ledger, recorder.on_step(number))
        prune(aggregator, federation.clients, cohort)
        errors = {
            group: aggregator.merge(group, [c for c in cohort if members[c].group == group], ledger, number)
            for group in aggregator.merged
        }
        mix_groups(federation, trained)
        last = number == training.rounds
        deliver(federation, list(federation.clients) if last else cohort, ledger)
        require_delivered(federation)
        require_matching(ledger)
        due = last or number % federation.config.evaluation.every == 0
        recorder.round(number, ledger, evaluate(federation) if due else Scores(), trained, errors)
        checkpoint(number)


def set_up(federation: Federation, clustered: Callable[[Clustered | None], None] = lambda found: None) -> Ledger:
    """What each client must get before the first round: its frozen weights, once, and the initial adapters.

    Between the two, clusters are found where the config asks for them; ``clustered`` is told of them.
    """
    ledger = Ledger()
    dtypes = {client.name: client.dtype for client in federation.plan.clients}
    for client, party in federation.clients.items():
        if isinstance(party, SplitClient):
            half = federation.plan.setup_tensors[party.cut, dtypes[client]]
        else:
            half = {name: t.to("meta") for name, t in party.base.model.state_dict().items()}
        output = {f"lm_head.{i}": p.to("meta") for i, p in enumerate(party.output_embedding())}
        tensors = {**half, **output}
        weights = sum(t.numel() * t.element_size() for t in tensors.values())
        ledger.count(Message("base-weights", client, "down", tensors), weights)
    clustered(cluster_clients(federation, 0, ledger))
    deliver(federation, list(federation.clients), ledger)
    return ledger


def deliver(federation: Federation, clients: Sequence[str], ledger: Ledger) -> None:
    """Send the current group adapter to those that are behind; moments of what it replaces are reset."""
    for client in clients:
        federation.clients[client].forget_moments(federation.aggregator.deliver(client, ledger))


def mix_groups(federation: Federation, trained: Mapping[str, Trained]) -> None:
    """Mix the adapters of task groups or clusters, where ``aggregation.cross_group`` asks for it.

    Sizes are those of the cohort.
    """
    rule, aggregator = federation.config.aggregation.cross_group, federation.aggregator
    if rule.strength == 0 or len(aggregator.merged) == 1 or not aggregator.exchanges:
        return
    if rule.graph == "laplacian":
        aggregator.mix(lambda cosines: laplacian_matrix(cosines, rule.strength))
        return
    groups = [aggregator.members[client].group for client in trained]
    weights = [aggregator.members[client].weight for client in trained]
    sizes = torch.tensor(
        [sum(w for w, g in zip(weights, groups, strict=True) if g == group) for group in aggregator.merged],
        dtype=torch.float64,
    )
    aggregator.mix(lambda cosines: softmax_matrix(cosines, sizes, rule.strength, rule.temperature))


def require_delivered(federation: Federation) -> None:
    """Every client that is not training holds exactly what it was delivered, by hash."""
    if federation.aggregator.exchanges:
        for client in federation.clients:
            federation.aggregator.check_held(client)


def evaluate(federation: Federation) -> Scores:
    """Score group test parts, with the mean over clients where they do not share one model, and local test parts."""
    groups, clients, seconds = {}, {}, {}
    for group in federation.group_names:
        began = time.perf_counter()
        prepared, members = federation.data[group], federation.members(group)
        shared = federation.models_of_group(group)
        models = shared or {c: federation.model_of_client(c) for c in members}
        scored = {name: federation.evaluator(prepared.task, prepared.test, model) for name, model in models.items()}
        several = len(scored) > 1
        users = [federation.part_of(c) if shared else c for c in members] if several else [*scored]
        groups[group] = mean_metrics([scored[name] for name in users])
        for client in members:
            if prepared.local_test[client]:
                clients[client] = federation.evaluator(
                    prepared.task, prepared.local_test[client], federation.model_of_client(client)
                )
        seconds[group] = time.perf_counter() - began
    return Scores(groups, clients, seconds)


def require_matching(ledger: Ledger) -> None:
    """Stop when bytes counted are not what the closed form says: one of the two would be wrong in every report.

    Raises:
        AtlasError: names the first entry that differs.
    """
    for mismatch in ledger.mismatches():
        raise AtlasError(f"byte ledger: {mismatch}")
