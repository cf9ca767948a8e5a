"""Turns what happened in a round into the records of the run directory (fields: ``atlas_cli.runs``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from atlas_cli.aggregation.error import ErrorLedger
from atlas_cli.clustering.in_a_run import ClusteringResult
from atlas_cli.data.class_names import count_labels
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.round_time import simulate
from atlas_cli.planning.devices.clock import RoundTime
from atlas_cli.reports.progress import Progress
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import INDEX
from atlas_cli.tasks.contract import Metric
from atlas_cli.wire.ledger import Ledger

JSON = dict[str, object]


@dataclass(frozen=True)
class Scores:
    """An evaluation: metrics by group and by client (local test part), wall seconds and number of models by group.

    Where a group's clients or clusters have models of their own, its metrics are the mean over clients; else
    ``metrics`` has the group's accumulator. Empty if no evaluation was due.
    """

    groups: Mapping[str, dict[str, float]] = field(default_factory=dict)
    clients: Mapping[str, dict[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)


class Recorder:
    """Writes metrics.jsonl, clients.jsonl, messages.jsonl and memory.json, and tells the progress display.

    Args:
        files: None to keep records in memory only.
        after_step: called after each local step; what it raises stops the run.
    """

    def __init__(
        self,
        federation: Federation,
        files: RecordFiles | None,
        progress: Progress,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.federation, self.files, self.progress, self.after_step = federation, files, progress, after_step
        self.metrics: list[JSON] = []
        self.clients: list[JSON] = []
        self.clustered: list[JSON] = []
        self.measured: MeasuredRound | None = None

    def start_round(self, number: int, present: Collection[str]) -> None:
        """Measure memory if this is the first round, or the first after resuming a run whose memory.json is missing."""
        if number == 1 or (self.files is not None and self.files.memory_is_missing):
            self.measured = MeasuredRound(self.federation, number, present)

    def on_step(self, round_number: int) -> Callable[[int, dict[str, LocalWork]], None]:
        """A callback for the engine: takes the step number from 0, and the work of each client so far."""
        before = {"examples": 0}

        def tell(step: int, done: dict[str, LocalWork]) -> None:
            losses = self._losses(done)
            examples = sum(t.examples for t in done.values())
            shown = {g: loss for g, loss in losses.items() if loss is not None}
            self.progress.step(round_number, step + 1, shown, examples - before["examples"])
            before["examples"] = examples
            self.after_step()

        return tell

    def round(
        self,
        number: int,
        ledger: Ledger,
        scores: Scores,
        trained: Mapping[str, LocalWork] | None = None,
        errors: Mapping[str, ErrorLedger | None] | None = None,
        attendance: Attendance | None = None,
    ) -> None:
        """Record a round; round 0 is before training.

        Clients that had no part in it (not in the cohort, sent nothing, were sent nothing, were not scored) have no
        line, except in round 0 and in the last.

        Args:
            trained: the work of every client that began the round.
            attendance: which of them are merged, and why others are not; default: all.
        """
        trained, errors = trained or {}, errors or {}
        dropped = attendance.dropped if attendance else {}
        kept = {client: did for client, did in trained.items() if client not in dropped}
        losses = self._losses(kept)
        cohort = self._by_group([*trained, *dropped])
        sending = self._by_group({client for client, _, _ in ledger.entries})
        clock = self._simulate(trained, ledger, attendance) if trained else None
        simulated = {"simulated_seconds": clock and clock.seconds, "simulated_joules": clock and clock.joules}
        protection = self.federation.protection
        epsilon = protection.figures(number)
        lines = [
            {
                **self._group_line(number, g, ledger, sending[g], scores, trained, losses, errors),
                **simulated,
                "epsilon": epsilon[g],
                "epsilon_of": protection.units(),
                "delta": self.federation.config.privacy.delta,
                "participants": [c for c in cohort[g] if c in kept],
                "dropped": {c: dropped[c] for c in cohort[g] if c in dropped},
                **_norms(protection.norms_of_group([c for c in cohort[g] if c in kept])),
            }
            for g in self.federation.group_names
        ]
        shares = self._shares(kept)
        named = {*trained, *dropped, *scores.clients, *(c for each in sending.values() for c in each)}
        everybody = number in (0, self.federation.config.training.rounds)
        clients = [
            {
                **self._client_line(number, c, ledger, scores, trained, shares),
                "simulated": asdict(clock.clients[c]) if clock and c in clock.clients else None,
                **(_norms(protection.norms_of_client(c)) if c in kept else {}),
                **(self._labels(c) if number == 0 else {}),
            }
            for c in (self.federation.clients if everybody else self.federation.in_order(named))
        ]
        self.metrics += lines
        self.clients += clients
        if self.files is not None:
            self.files.append("metrics.jsonl", lines)
            self.files.append("clients.jsonl", clients)
            self.files.append("messages.jsonl", ledger.records(number))
            if self.federation.recording is not None:
                self.files.append(INDEX, self.federation.recording.new_lines())
        if self.measured is not None and self.measured.number == number:
            self.measured.end(self.files)
        self.progress.round_end(number, lines)

    def _simulate(
        self, trained: Mapping[str, LocalWork], ledger: Ledger, attendance: Attendance | None
    ) -> RoundTime | None:
        if attendance is None:
            return simulate(self.federation, trained, ledger)
        dropped, late, waited = attendance.dropped, attendance.late, attendance.waited
        return simulate(self.federation, trained, ledger, dropped=dropped, late=late, waited=waited)

    def clusters(self, found: ClusteringResult | None) -> None:
        """Record and report a clustering; None if none was due."""
        if found is None:
            return
        self.clustered.append(found.record())
        if self.files is not None:
            self.files.append("clusters.jsonl", [found.record()])
        self.progress.note(found.sentence())

    def _by_group(self, clients: Iterable[str]) -> dict[str, list[str]]:
        """Some clients by task group, each once, in the order of the config."""
        found: dict[str, list[str]] = {group: [] for group in self.federation.group_names}
        for client in self.federation.in_order(clients):
            found[self.federation.group_of(client)].append(client)
        return found

    def _labels(self, client: str) -> JSON:
        """How often each class is a label of the client's training rows; the field is there only where classes are."""
        group = self.federation.data[self.federation.group_of(client)]
        rows = {feature["row"] for feature in group.train[client]} if group.task.has_classes else set()
        counts = count_labels([group.data.train[row] for row in sorted(rows)], group.task.labels_in)
        return {"labels": dict(counts)} if counts else {}

    def _losses(self, trained: Mapping[str, LocalWork]) -> dict[str, float | None]:
        losses: dict[str, float | None] = {}
        for group in self.federation.group_names:
            members = [t for c, t in trained.items() if self.federation.group_of(c) == group]
            labels = sum(t.labels for t in members)
            losses[group] = sum(t.loss_sum for t in members) / labels if labels else None
        return losses

    def _group_line(
        self,
        number: int,
        group: str,
        ledger: Ledger,
        sending: Collection[str],
        scores: Scores,
        trained: Mapping[str, LocalWork],
        losses: Mapping[str, float | None],
        errors: Mapping[str, ErrorLedger | None],
    ) -> JSON:
        took_part = [did for client, did in trained.items() if self.federation.group_of(client) == group]
        examples, seconds = sum(t.examples for t in took_part), sum(t.seconds for t in took_part)
        training, task = self.federation.config.training, self.federation.data[group].task
        last = number * training.local_steps - 1
        factor = (
            learning_rate_factor(training.schedule, last, training.rounds * training.local_steps) if number else None
        )
        return {
            "round": number,
            "task_group": group,
            "train_loss": losses[group],
            "test": scores.groups.get(group, {}),
            "metric": task.primary_metric,
            "better": task.better[task.primary_metric],
            "models": scores.models.get(group),
            **_counts(scores.metrics.get(group)),
            "examples": examples,
            "tokens": sum(t.tokens for t in took_part),
            "bytes_up": ledger.total("up", sending),
            "bytes_down": ledger.total("down", sending),
            "seconds": round(seconds + scores.seconds.get(group, 0.0), 6),
            "samples_per_second": round(examples / seconds, 3) if seconds > 0 else None,
            **self._errors(group, errors),
            "server_lr": None if factor is None else factor * training.server_optimizer.lr,
            "client_lr": None if factor is None else factor * training.client_optimizer.lr,
        }

    def _client_line(
        self,
        number: int,
        client: str,
        ledger: Ledger,
        scores: Scores,
        trained: Mapping[str, LocalWork],
        shares: Mapping[str, float],
    ) -> JSON:
        member = self.federation.aggregator.members[client]
        did = trained.get(client)
        return {
            "round": number,
            "client": client,
            "task_group": member.task_group,
            "cluster": member.cluster,
            "participated": client in shares,
            "train_loss": did.loss if did else None,
            "steps": did.steps if did else 0,
            "examples": did.examples if did else 0,
            "tokens": did.tokens if did else 0,
            "weight": shares.get(client),
            "bytes_up": ledger.total("up", [client]),
            "bytes_down": ledger.total("down", [client]),
            "held_sha256": member.exchanged_sha256(),
            "delivered_sha256": member.delivered_sha256 if self.federation.aggregator.exchanges else None,
            "local_test": scores.clients.get(client),
        }

    def _shares(self, kept: Mapping[str, LocalWork]) -> dict[str, float]:
        """What each client counts for in its group's merge."""
        members, equal = self.federation.aggregator.members, self.federation.aggregator.method.EQUAL_CLIENTS
        weights = {c: 1.0 if equal else members[c].weight for c in kept}
        totals: dict[str, float] = {}
        for client, weight in weights.items():
            totals[members[client].group] = totals.get(members[client].group, 0.0) + weight
        return {client: weight / totals[members[client].group] for client, weight in weights.items()}

    def _errors(self, group: str, errors: Mapping[str, ErrorLedger | None]) -> JSON:
        """Of the group's merge, or of those of its clusters, root mean square over its clients by weight."""
        weights = self.federation.aggregator.group_weights.weights(group)
        ledgers = {merged: errors.get(merged) for merged in weights}
        known = [(weights[merged], e.overall) for merged, e in ledgers.items() if e is not None and e.overall]
        total = sum(weight for weight, _ in known)

        def mean(part: str) -> float | None:
            return sum(w * getattr(e, part) ** 2 for w, e in known) ** 0.5 / total**0.5 if known else None

        only = next(iter(ledgers.values())) if len(ledgers) == 1 else None
        return {
            "aggregation_error": mean("total"),
            "aggregation_truncation": mean("truncation"),
            "aggregation_cross_term": mean("cross_term"),
            "aggregation_by_layer": {path: asdict(e) for path, e in only.layers.items()} if only else None,
        }


def _counts(metric: Metric | None) -> JSON:
    """What intervals are computed of; the fields are there only where the task counts."""
    found = {"test_trials": metric.trials(), "test_by_class": metric.by_class()} if metric is not None else {}
    return {name: counts for name, counts in found.items() if counts}


def _norms(found: Mapping[str, object]) -> JSON:
    """The field is there only where a mechanism is."""
    return {"norms": found} if found else {}
