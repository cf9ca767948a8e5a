"""Turns what happened in a round into the records of the run directory (fields: ``atlas_cli.runs``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain

from atlas_cli.aggregation.error import ErrorLedger
from atlas_cli.clustering.in_a_run import ClusteringResult
from atlas_cli.config.client_names import are_folded
from atlas_cli.cycle_collection import without_collection
from atlas_cli.engines.own_step import OnStep
from atlas_cli.experiment.kinds_in_a_round import KindsInARound
from atlas_cli.experiment.label_columns import label_columns, labels_of
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.compressed_step import CompressedStep
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.round_time import simulate
from atlas_cli.planning.devices.clock import RoundTime
from atlas_cli.reports.progress import Progress
from atlas_cli.runs.kinds import each_client, line_of_kind
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import INDEX
from atlas_cli.tasks.contract import Metric
from atlas_cli.wire.ledger import Ledger

JSON = dict[str, object]


@dataclass(frozen=True)
class Scores:
    """An evaluation: metrics by group and by client (local test part), wall seconds and number of models by group.

    Where a group's clients or clusters have models of their own, its metrics are the mean over clients; else
    ``metrics`` has the group's accumulator. ``validation`` has those of groups with a validation part. Empty if no
    evaluation was due.
    """

    test: dict[str, dict[str, float]] = field(default_factory=dict)
    validation: dict[str, dict[str, float]] = field(default_factory=dict)
    clients: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundResult:
    """What a round came to; round 0 is before training.

    Attributes:
        trained: the work of every client that began the round.
        errors: of merges, by group (or cluster).
        attendance: which clients are merged, and why others are not; None: all.
        compressed: by task group, a step with codecs and without.
        last: training ends with it, so that it says of every client how it ended.
    """

    number: int
    ledger: Ledger
    scores: Scores
    trained: Mapping[str, LocalWork] = field(default_factory=dict)
    errors: Mapping[str, ErrorLedger | None] = field(default_factory=dict)
    attendance: Attendance | None = None
    compressed: Mapping[str, CompressedStep] = field(default_factory=dict)
    last: bool = False

    @property
    def dropped(self) -> Mapping[str, str]:
        """By client that began the round, or should have, why it is not merged."""
        return self.attendance.dropped if self.attendance else {}

    @cached_property
    def kept(self) -> dict[str, LocalWork]:
        """The work that is merged."""
        return {client: did for client, did in self.trained.items() if client not in self.dropped}


class Recorder:
    """Writes metrics.jsonl, clients.jsonl, messages.jsonl and memory.json, and tells the progress display.

    Args:
        files: None to keep records in memory only.
        after_step: called after each local step; what it raises stops the run.

    Attributes:
        metrics: all lines of metrics.jsonl so far.
        clients: those of clients.jsonl, where there are no files: of many clients they are too many to keep.
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

    def on_step(self, round_number: int) -> OnStep:
        """A callback for the engine: takes the step number from 0, and the work of each client so far."""
        before = {"examples": 0}

        def tell(step: int, done: dict[str, LocalWork]) -> None:
            losses = {group: self._work(group, done).loss for group in self.federation.group_names}
            examples = sum(t.examples for t in done.values())
            shown = {g: loss for g, loss in losses.items() if loss is not None}
            self.progress.step(round_number, step + 1, shown, examples - before["examples"])
            before["examples"] = examples
            self.after_step()

        return tell

    @without_collection()
    def round(self, result: RoundResult) -> RoundTime | None:
        """Record a round; return it on the virtual clock, where it has a time there.

        Clients that had no part in it (not in the cohort, sent nothing, were sent nothing, were not scored) have no
        line, except in round 0 and in the last.
        """
        federation, number, kept = self.federation, result.number, result.kept
        sending = self._by_group(result.ledger.accounts)
        clock, epsilon = self._simulate(result), federation.protection.figures(number)
        lines = [self._group_line(result, group, sending[group], clock, epsilon[group]) for group in sending]
        shares = self._shares(kept)
        everybody, labels, messages = number == 0 or result.last, list[JSON](), list[JSON]()
        if everybody and are_folded(len(federation.clients)):
            clients, messages = self._folded(result, shares, clock)
            labels += label_columns(federation) if number == 0 else ()
        else:
            sent = (client for clients in sending.values() for client in clients)
            named = () if everybody else {*result.trained, *result.dropped, *result.scores.clients, *sent}
            clients = (
                self._client_line(result, client, shares, clock)
                for client in (federation.clients if everybody else federation.in_order(named))
            )
        self.metrics += lines
        if self.files is None:
            self.clients += each_client(clients, labels)
        else:
            self.files.append("metrics.jsonl", lines)
            self.files.append("clients.jsonl", clients)
            if labels:
                self.files.append("labels.jsonl", labels)
            self.files.append("messages.jsonl", messages or result.ledger.records(number))
            if federation.recording is not None:
                self.files.append(INDEX, federation.recording.new_lines())
        if self.measured is not None and self.measured.number == number:
            self.measured.end(self.files)
        self.progress.round_end(number, lines)
        if number == 1:
            self._note_headers(result.ledger)
        return clock

    def _folded(
        self, result: RoundResult, shares: Mapping[str, float], clock: RoundTime | None
    ) -> tuple[Iterator[JSON], list[JSON]]:
        """Lines of clients and of messages of a round that reaches all: one for each client that took part, and for
        those others of which all is the same one together (``runs.kinds``)."""
        federation, ledger, number = self.federation, result.ledger, result.number
        timed = clock.clients if clock is not None else ()
        apart = {*result.trained, *result.dropped, *result.scores.clients, *timed}
        epsilon = None
        if self._tells_epsilon(result):
            epsilon = (tuple(self._epsilon(result, client).items()) for client in federation.clients)
        kinds = KindsInARound(federation, ledger, apart, epsilon)
        lines = chain(
            (self._client_line(result, client, shares, clock) for client in federation.in_order(apart)),
            (
                line_of_kind(self._client_line(result, first, shares, clock), names)
                for first, names in kinds.of_clients()
            ),
        )
        messages = ledger.records(number, apart)
        for first, names in kinds.of_messages():
            messages += [line_of_kind(line, names) for line in ledger.records(number, [first])]
        return lines, messages

    def _note_headers(self, ledger: Ledger) -> None:
        """Of clients with codecs, who look at bytes, where headers are a large part of messages."""
        plan = self.federation.plan
        keys = {kind.key for kind in plan.kinds if kind.wire.asked() and kind.wire.header != "compact"}
        whole = [client.name for client in plan.clients if client.key in keys] if keys else []
        if large := ledger.headers(whole):
            shares = ", ".join(f"{share:.1%} of {kind} {way}" for (kind, way), share in large.items())
            self.progress.note(f"note: headers are {shares}; wire.header: compact makes them smaller")

    def clusters(self, found: ClusteringResult | None) -> None:
        """Record and report a clustering; None if none was due."""
        if found is None:
            return
        self.clustered.append(found.record())
        if self.files is not None:
            self.files.append("clusters.jsonl", [found.record()])
        self.progress.note(found.sentence())

    def _simulate(self, result: RoundResult) -> RoundTime | None:
        if not result.trained:
            return None
        if (there := result.attendance) is not None and there.ended is not None:
            return there.ended.time
        late, waited, idle = (there.late, there.waited, there.idle) if there is not None else ((), 0.0, 0.0)
        works = self.federation, result.trained, result.ledger
        return simulate(*works, dropped=result.dropped, late=late, waited=waited, idle=idle)

    def _by_group(self, clients: Iterable[str]) -> dict[str, list[str]]:
        """Some clients by task group, each once, in the order of the config."""
        if isinstance(clients, Mapping) and len(clients) == len(self.federation.clients):
            return {group: self.federation.members(group) for group in self.federation.group_names}
        found: dict[str, list[str]] = {group: [] for group in self.federation.group_names}
        for client in self.federation.in_order(clients):
            found[self.federation.group_of(client)].append(client)
        return found

    def _work(self, group: str, works: Mapping[str, LocalWork]) -> LocalWork:
        """The work of a group's clients together."""
        return LocalWork.together(did for client, did in works.items() if self.federation.group_of(client) == group)

    def _group_line(
        self,
        result: RoundResult,
        group: str,
        sending: Collection[str],
        clock: RoundTime | None,
        epsilon: Mapping[str, float | str],
    ) -> JSON:
        number, scores, protection = result.number, result.scores, self.federation.protection
        work, training = self._work(group, result.trained), self.federation.config.training
        task = self.federation.data[group].task
        factor = learning_rate_factor(training, number * training.local_steps - 1) if number else None
        cohort, ledger = self._by_group([*result.trained, *result.dropped])[group], result.ledger
        sent = ledger.totals(sending if len(sending) < len(ledger.accounts) else None)
        participants = [client for client in cohort if client in result.kept]
        return {
            "round": number,
            "task_group": group,
            "train_loss": self._work(group, result.kept).loss,
            "test": scores.test.get(group, {}),
            **({"validation": scores.validation.get(group, {})} if self.federation.data[group].validation else {}),
            "metric": task.primary_metric,
            "better": task.better[task.primary_metric],
            "models": scores.models.get(group),
            **_counts(scores.metrics.get(group)),
            "examples": work.examples,
            "tokens": work.tokens,
            "bytes_up": sent["up"],
            "bytes_down": sent["down"],
            "seconds": round(work.seconds + scores.seconds.get(group, 0.0), 6),
            "samples_per_second": round(work.examples / work.seconds, 3) if work.seconds > 0 else None,
            **self._errors(group, result.errors),
            **self._optimizer(group, result.errors),
            "server_lr": None if factor is None else factor * training.server_optimizer.lr,
            "client_lr": None if factor is None else factor * training.client_optimizer.lr,
            "simulated_seconds": clock and clock.seconds,
            "simulated_joules": clock and clock.joules,
            "epsilon": epsilon,
            "epsilon_of": protection.units(),
            "delta": self.federation.config.privacy.delta,
            **self._budget(group, number),
            "participants": participants,
            "dropped": {c: result.dropped[c] for c in cohort if c in result.dropped},
            **_staleness(result, cohort),
            **_norms(protection.norms_of_group(participants)),
            **({"compression": lost} if (lost := result.ledger.lost(sending)) else {}),
            **({"compressed_step": step._asdict()} if (step := result.compressed.get(group)) else {}),
        }

    def _client_line(
        self, result: RoundResult, client: str, shares: Mapping[str, float], clock: RoundTime | None
    ) -> JSON:
        federation = self.federation
        member, did = federation.aggregator.members[client], result.trained.get(client, LocalWork())
        here = result.number == 0 and not are_folded(len(federation.clients))
        labels = labels_of(federation.data[member.task_group], client) if here else {}
        return {
            "round": result.number,
            "client": client,
            "task_group": member.task_group,
            "cluster": member.cluster,
            "participated": client in result.kept,
            "train_loss": did.loss,
            "steps": did.steps,
            "examples": did.examples,
            "tokens": did.tokens,
            "weight": shares.get(client),
            "bytes_up": result.ledger.total("up", [client]),
            "bytes_down": result.ledger.total("down", [client]),
            "held_sha256": member.exchanged_sha256(),
            "delivered_sha256": member.delivered_sha256 if self.federation.aggregator.exchanges else None,
            "local_test": result.scores.clients.get(client),
            "simulated": asdict(clock.clients[client]) if clock and client in clock.clients else None,
            **(_norms(self.federation.protection.norms_of_client(client)) if client in shares else {}),
            **({"epsilon": own} if self._tells_epsilon(result) and (own := self._epsilon(result, client)) else {}),
            **({"labels": labels} if labels else {}),
        }

    def _tells_epsilon(self, result: RoundResult) -> bool:
        """Whether lines have clients' own epsilon. Of DP-SGD it takes a while for each size of data, and is told in the
        last round."""
        privacy = self.federation.config.privacy
        return (result.last or (result.number > 0 and privacy.examples is None)) and bool(privacy.bounded())

    def _epsilon(self, result: RoundResult, client: str) -> Mapping[str, float | str]:
        return self.federation.protection.figures_of_client(client, result.number)

    def _budget(self, group: str, number: int) -> JSON:
        """What is spent with earlier runs, and who is frozen; the fields are there only where a budget is."""
        protection = self.federation.protection
        if protection.budget is None:
            return {}
        members = self.federation.members(group)
        frozen = protection.frozen(number)
        return {"spent": protection.spent(members, number), "frozen": [c for c in members if c in frozen]}

    def _shares(self, kept: Mapping[str, LocalWork]) -> dict[str, float]:
        """What each client that has something to merge counts for in its group's merge."""
        members, equal = self.federation.aggregator.members, self.federation.aggregator.method.EQUAL_CLIENTS
        weights = {c: 1.0 if equal else members[c].weight for c in kept if members[c].exchanges}
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

    def _optimizer(self, group: str, merged: Collection[str]) -> JSON:
        """What the cut of running sums lost, root mean square over clusters; only where groups move by a rule."""
        aggregator = self.federation.aggregator
        if aggregator.optimizer is None:
            return {}
        weights, cut = aggregator.group_weights.weights(group), aggregator.optimizer.truncation
        known = [(weight, cut[name]) for name, weight in weights.items() if name in merged]
        total = sum(weight for weight, _ in known)
        return {"optimizer_truncation": (sum(w * c**2 for w, c in known) / total) ** 0.5 if known else None}


def _counts(metric: Metric | None) -> JSON:
    """What intervals are computed of; the fields are there only where the task counts."""
    found = {"test_trials": metric.trials(), "test_by_class": metric.by_class()} if metric is not None else {}
    return {name: counts for name, counts in found.items() if counts}


def _staleness(result: RoundResult, clients: Collection[str]) -> JSON:
    """The field is there only where clients wait for nobody."""
    ended = result.attendance.ended if result.attendance is not None else None
    return {} if ended is None else {"staleness": {c: ended.staleness[c] for c in clients if c in ended.staleness}}


def _norms(found: Mapping[str, object]) -> JSON:
    """The field is there only where a mechanism is."""
    return {"norms": found} if found else {}
