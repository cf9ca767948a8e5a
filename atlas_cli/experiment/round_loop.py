"""The round loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.aggregation.error import ErrorLedger
from atlas_cli.aggregation.mixing import laplacian_matrix, softmax_matrix
from atlas_cli.clustering.in_a_run import ClusteringResult, cluster_clients
from atlas_cli.config.cohorts import cohort_size
from atlas_cli.cycle_collection import leaving_out_what_exists, without_collection
from atlas_cli.engines.engine import LocalSteps
from atlas_cli.engines.in_process import local_steps
from atlas_cli.errors import AtlasError, NonFiniteError, during
from atlas_cli.experiment.best_rounds import BestRounds
from atlas_cli.experiment.delivery import deliver, require_delivered
from atlas_cli.experiment.recorder import Recorder, RoundResult, Scores
from atlas_cli.experiment.run_budget import RunBudget
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.client_state.member import standings
from atlas_cli.federation.compressed_step import compressed_steps
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.screening import require_finite_update, too_large, unfit
from atlas_cli.federation.parties.evaluation import mean_metrics
from atlas_cli.federation.parties.untrained_logits import UntrainedLogits
from atlas_cli.models.adapters.lora import LORA
from atlas_cli.printable import listed, on_one_line
from atlas_cli.tasks.contract import Metric
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import BaseWeights

MANY = 10_000  # clients of which a search for cycles takes a tenth of a second or more


def train(
    federation: Federation,
    recorder: Recorder,
    checkpoint: Callable[[int], None] = lambda number: None,
    done: int | None = None,
    local_steps: LocalSteps = local_steps,
    best: BestRounds | None = None,
    budget: RunBudget | None = None,
    scored: bool = True,
) -> int:
    """Run the rounds of a federation and record each; returns the number of the last.

    Args:
        checkpoint: called after every round, round 0 (before training) included.
        done: completed rounds of a restored federation; None for a new run.
        local_steps: of an engine: where clients compute; by default, in this process.
        best: of a restored federation; takes in every evaluation, and says whether training ends early.
        budget: of the run; without one there is none, and nothing is written to a ledger.
        scored: whether models are scored; nothing that is trained depends on it without ``training.early_stopping``.

    Raises:
        BudgetSpentError: a privacy budget was spent by another run meanwhile; the round was not begun.
        NonFiniteError: a loss, activation, gradient, update or aggregate is not finite; it was neither used nor
        delivered.
        TooFewClientsError: too few clients are left after a round; it was not recorded.
        AtlasError: a client does not hold what was delivered, or bytes do not match their closed form.
    """
    training, best = federation.config.training, best if best is not None else BestRounds(federation)
    if done is None:
        with during("round 0"):
            if budget is not None:
                budget.begin(0)
            ledger = set_up(federation, recorder.clusters)
            require_matching(ledger)
            scores = evaluate_untrained(federation) if scored else Scores()
            best.after(0, scores)
            recorder.round(RoundResult(0, ledger, scores))
        checkpoint(0)
    caution(federation, recorder)

    last_done = done or 0
    numbers = range(last_done + 1, training.rounds + 1 if not best.stops else 0)
    for number in leaving_out_what_exists(numbers) if len(federation.clients) >= MANY else numbers:
        if budget is not None:
            if budget.is_over(number):
                break
            budget.begin(number)
        ledger = federation.ledger(number)
        recorder.clusters(cluster_clients(federation, number, ledger))
        attendance = Attendance(federation, federation.starting(number), number)
        with during(f"round {number}"), federation.at_hand(attendance.cohort):
            deliver(federation, attendance.present, ledger)  # those that missed a round catch up
            require_delivered(federation, attendance.present)
            compressed = compressed_steps(federation, attendance.present, number)
            attendance.begin()
            federation.protection.begin_round(number, attendance.present)
            recorder.start_round(number, attendance.present)
            trained = local_steps(federation, attendance, ledger, recorder.on_step(number))
            sent = collect(federation, attendance, trained, ledger)
            attendance.require_enough()
            federation.server.finish_round(attendance.present, *attendance.lateness())
            errors = merge(federation, attendance, sent, recorder)
            mix_groups(federation, attendance.present)
            last = number == training.rounds or (budget is not None and budget.is_last(number))
            reach(federation, attendance, ledger, everyone=last)
            due = scored and (last or number % federation.config.evaluation.every == 0)
            scores = evaluate(federation) if due else Scores()
            if best.after(number, scores) and not last:
                note = f"training ends early, after round {number} of {training.rounds}: {best.sentence()}"
                recorder.progress.note(note)
                last = reach(federation, attendance, ledger, everyone=True)
                scores = evaluate(federation)  # clients that were behind score their local test parts anew
            require_matching(ledger)
            alone = due and not federation.aggregator.group_adapter  # each client's own model is scored
            require_delivered(federation, federation.clients if alone else scores.clients)
            works = trained | attendance.called_off
            took = recorder.round(RoundResult(number, ledger, scores, works, errors, attendance, compressed, last))
            if federation.clock is not None and took is not None:
                federation.clock.end_round(took.seconds)
        checkpoint(number)
        last_done = number
        if best.stops:
            break
    return last_done


@without_collection()
def reach(federation: Federation, attendance: Attendance, ledger: Ledger, everyone: bool) -> bool:
    """Deliver a round's result to its cohort, or at the end of training to everyone, and check that they hold it."""
    if everyone:
        attendance.call_off(ledger)
    clients: Collection[str] = federation.clients if everyone else attendance.cohort
    there = [client for client in clients if client not in attendance.gone] if attendance.gone else clients
    if federation.under_way is not None:
        federation.under_way.deliver(there, attendance.present)
    deliver(federation, there, ledger)
    require_delivered(federation, clients, anew=everyone)
    return everyone


def caution(federation: Federation, recorder: Recorder) -> None:
    """Say where the cohort of a group (or cluster) is too small for a method that wants several clients, and what the
    config says of weights and other settings that the method does not use."""
    aggregator, share = federation.aggregator, federation.config.training.cohort
    for unused in (unused_weights(federation), unused_settings(federation)):
        if unused is not None:
            recorder.progress.note(f"warning: {unused}")
    counts = standings(aggregator.members).items()
    for group in aggregator.groups:
        size = cohort_size(share, sum(count for standing, count in counts if standing.group == group))
        if text := aggregator.method.caution(size):
            recorder.progress.note(f"warning: {group}: {on_one_line(text)}")


def unused_weights(federation: Federation) -> str | None:
    """The config's weights that its method ignores, in words; None if there are none."""
    config, method = federation.config, federation.aggregator.method
    if method.UNWEIGHTED is None:
        return None
    equal = ("examples", "uniform") if method.EQUAL_CLIENTS else ("examples",)
    said = [] if (rule := config.aggregation.weights) in equal else [f"aggregation.weights: {rule}"]
    said += [f"clients.{name}.weight" for name, client in config.clients.items() if client.weight != 1]
    merging = f"mode: {config.mode}" if config.mode in ("local-only", "centralized") else config.aggregation.method
    return f"{merging} {method.UNWEIGHTED}, and does not use {listed(said)}" if said else None


def unused_settings(federation: Federation) -> str | None:
    """The config's settings of merges and adapters that its method ignores, in words; None if there are none."""
    config, method, said = federation.config, federation.aggregator.method, []
    sums = type(method).require_room is not BaseMethod.require_room or federation.aggregator.optimizer is not None
    if config.aggregation.server_memory is not None and not sums and config.clustering is None:
        said.append("aggregation.server_memory, which is of sums of dW")
    if method.form() != LORA and config.lora.alpha != type(config.lora).model_fields["alpha"].default:
        said.append("lora.alpha, which scales A and B")
    return f"{config.aggregation.method} does not use {listed(said)}" if said else None


def collect(
    federation: Federation, attendance: Attendance, trained: Mapping[str, LocalWork], ledger: Ledger
) -> dict[str, dict[str, Tensor]]:
    """The updates of the clients present; a client that is too late, or whose update cannot be merged, is dropped.

    Raises:
        NonFiniteError: an update is not finite, with ``training.on_nonfinite: stop``.
    """
    aggregator, config = federation.aggregator, federation.config
    for client in attendance.present:
        if aggregator.prune(client):
            federation.clients[client].reset_optimizer()
    sent: dict[str, dict[str, Tensor]] = {}
    for client in list(attendance.present) if aggregator.exchanges else ():
        with during(f"client {client}"):
            tensors = aggregator.receive(client, ledger)
        if attendance.passes_deadline(client, trained[client], ledger):
            continue
        reason = unfit(aggregator, client, tensors, attendance.began_with[client])
        try:
            require_finite_update(aggregator, client, tensors, attendance.number)
        except NonFiniteError as error:
            if config.training.on_nonfinite == "stop":
                raise
            reason = reason or str(error).partition(";")[0]
        if reason:
            attendance.drop(client, reason, gone=False)
        else:
            sent[client] = tensors
    if (ratio := config.screen.max_norm_ratio) is None:
        return sent
    for group in aggregator.groups:
        of_group = {client: sent[client] for client in attendance.remaining(group) if client in sent}
        for client, reason in too_large(aggregator, group, of_group, attendance.began_with, ratio).items():
            attendance.drop(client, reason, gone=False)
            del sent[client]
    return sent


def merge(
    federation: Federation, attendance: Attendance, sent: Mapping[str, Mapping[str, Tensor]], recorder: Recorder
) -> dict[str, ErrorLedger | None]:
    """Merge each group (or cluster) with clients left in the round; one without any keeps its adapter."""
    errors: dict[str, ErrorLedger | None] = {}
    for group in federation.aggregator.groups:
        left = attendance.remaining(group)
        if not left and federation.under_way is None:
            kept = f"round {attendance.number}: no client of {group} is left, so it keeps its adapter"
            recorder.progress.note(kept)
        elif left and federation.aggregator.exchanges:
            with during(f"{'task group' if group in federation.group_names else 'cluster'} {group}"):
                errors[group] = federation.aggregator.combine(group, {c: sent[c] for c in left}, attendance.number)
    return errors


@without_collection()
def set_up(federation: Federation, clustered: Callable[[ClusteringResult | None], None] = lambda found: None) -> Ledger:
    """Send each client its frozen weights and the initial adapters, before the first round.

    Between the two, clusters are found if the config asks for them; ``clustered`` is called with the result.
    """
    ledger = federation.ledger(0)
    messages: dict[tuple[object, ...], BaseWeights] = {}  # clients that hold the same part of one base get the same
    everyone = iter(federation.clients)
    for place, client in enumerate(federation.plan.kinds):
        kind = client.task_group, client.cut, client.format
        names = list(islice(everyone, len(federation.plan.clients.names_of(place))))
        if kind not in messages:
            with federation.at_hand([client.name]):
                party = federation.clients[client.name]
                output = party.output_embedding()
                whole = party.base.model.state_dict()
                half = federation.plan.setup_tensors[kind[1:]] if federation.split else whole
                tensors = {**half, **{f"lm_head.{i}": p for i, p in enumerate(output)}}
                messages[kind] = BaseWeights(client.name, tensors)
        counted, message = Ledger(), messages[kind].to(client.name)
        counted.count(message, message.payload_bytes)
        ledger.add(counted.accounts[message.client], names)
        for name in names if ledger.watch is not None else ():
            ledger.see([message], name)
    clustered(cluster_clients(federation, 0, ledger))
    deliver(federation, federation.clients, ledger)
    return ledger


def mix_groups(federation: Federation, clients: Sequence[str]) -> None:
    """Mix the adapters of task groups or clusters, where ``aggregation.cross_group`` asks for it.

    Sizes are those of ``clients``; a group without any of them keeps its adapter.
    """
    rule, aggregator = federation.config.aggregation.cross_group, federation.aggregator
    if rule.strength == 0 or len(aggregator.groups) == 1 or not aggregator.exchanges:
        return
    groups = [aggregator.members[client].group for client in clients]
    if rule.graph == "laplacian":
        aggregator.mix(lambda cosines: laplacian_matrix(cosines, rule.strength), groups)
        return
    weights = [aggregator.members[client].weight for client in clients]
    sizes = torch.tensor(
        [sum(w for w, g in zip(weights, groups, strict=True) if g == group) for group in aggregator.groups],
        dtype=torch.float64,
    )
    aggregator.mix(lambda cosines: softmax_matrix(cosines, sizes, rule.strength, rule.temperature), groups)


def evaluate(federation: Federation) -> Scores:
    """Score the held-out parts of groups, with the mean over clients where they do not share one model, and local test
    parts."""
    scores = Scores()
    for group in federation.group_names:
        with during(f"task group {group}"):
            began = time.perf_counter()
            prepared, members = federation.data[group], federation.members(group)
            measured: dict[str, dict[str, Metric]] = {part: {} for part in prepared.scored}
            generated: dict[str, dict[str, float]] = {}
            for name, model in federation.scored_models(group):
                for part, features in prepared.scored.items():
                    measured[part][name] = federation.evaluator.measure(prepared.task, features, model)
                if group in federation.generated:
                    generated[name] = federation.generated[group].scores(model, federation.evaluator)
            models = list(measured["test"])
            if len(models) == 1:
                scores.metrics[group] = measured["test"][models[0]]
            users = models if len(models) == 1 else [federation.scored_by(client) for client in members]
            for part, found in measured.items():
                figures = {name: prepared.task.scores(metric) for name, metric in found.items()}
                getattr(scores, part)[group] = mean_metrics([figures[name] for name in users])
            if generated:
                scores.test[group] |= mean_metrics([generated[name] for name in users])
            scores.models[group] = len(models)
            for client in members if any(prepared.local_test.values()) else ():
                if prepared.local_test[client] and not federation.trains(client):
                    with federation.at_hand([client]):
                        model = federation.model_of_client(client)
                        scores.clients[client] = federation.evaluator(prepared.task, prepared.local_test[client], model)
            scores.seconds[group] = time.perf_counter() - began
    return scores


def evaluate_untrained(federation: Federation) -> Scores:
    """Score round 0, whose logits another run may have kept."""
    federation.untrained = federation.evaluator.untrained = UntrainedLogits(federation.config.engine)
    try:
        return evaluate(federation)
    finally:
        federation.evaluator.untrained = None


def require_matching(ledger: Ledger) -> None:
    """Stop if counted bytes differ from the closed form: one of the two would be wrong in every report.

    Raises:
        AtlasError: names the first entry that differs.
    """
    for mismatch in ledger.mismatches():
        raise AtlasError(f"byte ledger: {mismatch}")
