"""The input of an audit: the recorded messages of a run, and the truth that attacks are scored against.

The truth (texts, labels) is not recorded. It is recomputed from the config and the data, which are checked
by hash to be those of the run. An attack uses it only to score itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas_cli.audit.changes_of_texts import Decoded, Place, put_together
from atlas_cli.audit.deliveries import Deliveries
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.data.collate import Batch, collate
from atlas_cli.data.prepare import prepare
from atlas_cli.errors import ResourceError
from atlas_cli.experiment.run_inputs import changed_since
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.build import build_for_audit
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.models.bottleneck import NAME, bottleneck_of
from atlas_cli.models.frozen.load import FrozenBase, load_tokenizer
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import config_of
from atlas_cli.tasks.contract import Feature, count_examples
from atlas_cli.wire.messages import STEP, Activations, Fingerprint, HiddenStates, Message, Rows
from atlas_cli.wire.recorded_messages import RecordedMessage, recorded_messages

M = TypeVar("M", bound=Message)
H = TypeVar("H", bound=HiddenStates)
RECORD = "add audit: {record: {rounds: [1]}} to its config and train again, or give the config to atlas audit"
UNSPLIT = "clients are not split, so no activations cross the wire"
OWN_STEPS = 1_000_000  # numbers of the attacker's own steps: what a defence draws for them is drawn anew


@dataclass
class Step:
    """One local step on the wire: its messages by type, and its batch; of a frozen client, the texts that it sent."""

    client: str
    round: int
    number: int
    batch: Batch
    messages: dict[type[Message], RecordedMessage] = field(default_factory=dict)

    def read(self, kind: type[M]) -> M:
        """Read the message of type ``kind``."""
        return self.messages[kind].read(kind)


@dataclass(frozen=True)
class Tokens:
    """The real tokens of some texts: activations (N, D), token ids (N,), and the text of each (N,)."""

    activations: Tensor
    ids: Tensor
    texts: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """Concatenate several sets of tokens."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("activations", "ids", "texts")))

    @property
    def hidden(self) -> Tensor:
        """The activations as float32."""
        return self.activations.float()


@dataclass
class Evidence:
    """A federation before training, and the recorded messages of its run.

    Attributes:
        most: the number of texts that an attack uses, from the first recorded steps.
        shadows: the number of models that an attack may train for comparison; each takes as long as the run.
        canaries: the number of sequences that an attack may plant in a run of its own, which takes as long as the run.
        attribute: the column of the data whose values an attack is to find; None: the labels, where they stay.
        tell: called with the progress of attacks that take long.
    """

    run: RunDirectory
    federation: Federation
    messages: list[RecordedMessage]
    most: int = 256
    shadows: int = 0
    canaries: int = 0
    attribute: str | None = None
    tell: Callable[[str], None] = lambda what: None
    _changes: dict[str, dict[Place, Decoded]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_run(
        cls, run: RunDirectory, most: int = 256, shadows: int = 0, canaries: int = 0, attribute: str | None = None
    ) -> Evidence:
        """Read the evidence of a finished or stopped run.

        Raises:
            ResourceError: nothing was recorded (says how to record), or config, model or data are not the run's.
        """
        messages = recorded_messages(run)
        if not messages:
            raise ResourceError(f"{run.path} has no recorded messages; {RECORD}")
        federation = build_for_audit(config_of(run))
        manifest = run.read_json("manifest.json")
        if changed := changed_since(manifest, federation):
            raise ResourceError(f"{run.path} cannot be audited: {changed}")
        return cls(run, federation, messages, most, shadows, canaries, attribute)

    @cached_property
    def deliveries(self) -> Deliveries:
        """The recorded deliveries, from which clients began their rounds."""
        return Deliveries(self.run, self.federation, self.messages)

    @property
    def embedding(self) -> Tensor:
        """The input embedding (V, D) of the frozen model, which all parties know, in the width of the blocks."""
        return token_vectors(self.federation.base)

    @cached_property
    def steps(self) -> list[Step]:
        """The local steps with recorded activations, except those taken for fingerprints."""
        found: dict[tuple[int, str, int], Step] = {}
        per_round = self.federation.config.training.local_steps
        for (number, client), messages in _by_round(self.messages).items():
            fingerprint = max((m.number for m in messages if m.type is Fingerprint), default=0)
            if number == 0:  # set-up: only fingerprints take steps
                continue
            first = (number - 1) * per_round
            planned = self.federation.plan.by_name[client]
            sends = enumerate(planned.uploads(self.federation.config.training))
            batches = [(step, batch_of(self.federation, client, first + step)) for step, some in sends if some]
            batches = [(step, batch) for step, batch in batches if batch.features]  # an empty one sends nothing
            counts: Counter[type[Message]] = Counter()
            for message in messages:
                if message.type not in STEP or message.number < fingerprint:
                    continue
                # a frozen client names the texts of each step, after what it sends of those that are new
                step, batch = batches[counts[Rows if planned.learns == "frozen" else message.type]]
                counts[message.type] += 1
                own = found.setdefault((number, client, step), Step(client, number, step, batch))
                own.messages[message.type] = message
        steps = [step for _, step in sorted(found.items()) if Activations in step.messages]
        return [replace(step, batch=self._sent(step)) if Rows in step.messages else step for step in steps]

    def _sent(self, step: Step) -> Batch:
        """The texts that a frozen client sent in a step; they are numbered as they come."""
        numbers, sent = step.read(Rows).rows.tolist(), step.read(Activations).lengths
        assert sent is not None, "texts follow one another"
        features = [step.batch.features[numbers.index(n)] for n in sorted(set(numbers))[-len(sent) :]]
        task = self.federation.data[self.federation.group_of(step.client)].task
        return collate(task, features, self.federation.pad)

    @cached_property
    def true_labels(self) -> Federation:
        """The federation with the original labels of the data, which ``privacy.labels`` replaces for training."""
        config = self.federation.config
        if config.privacy.labels is None:
            return self.federation
        plain = copy.copy(self.federation)
        plain.data = prepare(config, load_tokenizer(config.model), self.federation.plan.family.causal)
        return plain

    @property
    def windows_note(self) -> str:
        """A note that some texts are windows of one example; empty if none are."""
        parts = [part for group in self.federation.data.values() for part in (*group.train.values(), group.test)]
        if all(count_examples(part) == len(part) for part in parts):
            return ""
        return "each window of an example counts as a text; intervals take them as independent"

    def chosen_steps(self, most: int | None = None) -> Iterator[Step]:
        """Take steps from rounds and clients in turn, until ``most`` texts are reached.

        Args:
            most: of an attack that takes long; no more than those of the audit.

        Raises:
            Inapplicable: no activations were recorded.
        """
        if not self.steps:
            raise Inapplicable("no activations were recorded")
        texts, enough = 0, self.most if most is None else min(most, self.most)
        for step in sorted(self.steps, key=lambda s: (s.number, s.round, s.client)):
            if texts >= enough:
                return
            texts += step.batch.n_examples
            yield step

    def tokens(self, step: Step, first_text: int = 0) -> Tokens:
        """The received activations of a step's real tokens, with their token ids."""
        return tokens_of(self.decoded(step, Activations).activations.float(), step.batch, first_text)

    def decoded(self, step: Step, kind: type[H]) -> H:
        """The message of type ``kind``, as its receiver decoded it.

        Raises:
            Inapplicable: it is the change of one that was not recorded.
        """
        wire = self._split_client(step.client).wire
        if not wire.sends_changes(kind.kind):
            return wire.decode(step.read(kind))
        if lacking := set(range(1, step.round)) - self._recorded_rounds:
            raise Inapplicable(
                f"{kind.kind} are sent as changes of earlier messages, and those of round {min(lacking)} were not "
                f"recorded; set audit.record.rounds to all rounds up to {step.round}"
            )
        decoded = self._put_together(step.client)[step.round, step.number][kind]
        assert isinstance(decoded, kind)
        return decoded

    @cached_property
    def _recorded_rounds(self) -> set[int]:
        audit = self.federation.config.audit
        return set(audit.record.rounds) if audit is not None else set()

    def _put_together(self, client: str) -> dict[Place, Decoded]:
        """The decoded messages of the chosen steps of a client that sends changes."""
        if client not in self._changes:
            own = {(step.round, step.number): step.messages for step in self.steps if step.client == client}
            wanted = {(step.round, step.number) for step in self.chosen_steps() if step.client == client}
            gone = {line["round"] for line in self.run.read_lines("metrics.jsonl") if client in line["dropped"]}
            plan = self.federation.plan
            self._changes[client] = put_together(plan, plan.by_name[client], own, wanted, gone)
        return self._changes[client]

    def chosen_tokens(self) -> Tokens:
        """The tokens of all chosen steps, with texts numbered consecutively."""
        parts, texts = [], 0
        for step in self.chosen_steps():
            parts.append(self.tokens(step, texts))
            texts += step.batch.n_examples
        return Tokens.joined(parts)

    def public_texts(self, client: str) -> list[Feature]:
        """Texts of a client's task that no client holds: the held-out part of its task group."""
        return self.federation.data[self.federation.group_of(client)].test

    def attacker_material(
        self, client: str, round_number: int, features: Sequence[Feature], size: int = 16, began: int | None = None
    ) -> Tokens:
        """The tokens of the attacker's own texts: what a client with the adapters delivered for a round would send.

        Dropout, precision and defence are those of the client; its random numbers are drawn anew.

        Args:
            began: the round whose adapters it has; None: those of the round.
        """
        party = self.party(client, round_number if began is None else began)
        task = self.federation.data[self.federation.group_of(client)].task
        parts = []
        for start in range(0, len(features), size):
            batch = collate(task, features[start : start + size], self.federation.pad)
            message = party.forward(batch.inputs(), round_number, OWN_STEPS + start, None)
            message = party.wire.decode(party.wire.encode(message, party.now))
            parts.append(tokens_of(message.activations, batch, start))
        return Tokens.joined(parts)

    def party(self, client: str, round_number: int) -> SplitClient:
        """The client in the state that the server's deliveries gave it before the steps of a round.

        Raises:
            Inapplicable: not a split client, its adapters have changed their shapes since set-up, or a delivery was not
                recorded.
        """
        party = self._split_client(client)
        state = party.adapters.state()
        held, changes = self.deliveries.at_round_start(client, round_number)
        if any(held[name].shape != state[name].shape for name in state):
            raise Inapplicable("the client's ranks have changed since set-up")
        party.adapters.load(held)
        party.adapters.frozen.clear()
        party.adapters.frozen.update(changes)
        if self.federation.config.privacy.mid is not None:
            assert party.head is not None, "labels: client"
            delivered = self.deliveries.head_at_round_start(client, round_number)
            sent = f"head.{NAME}."
            state = {n.removeprefix(sent): v for n, v in delivered.items() if n.startswith(sent)}
            bottleneck_of(party.head).load_state_dict(state)
        return party

    def cut(self, client: str) -> int:
        """The number of blocks that a client holds."""
        return self._split_client(client).cut

    def _split_client(self, client: str) -> SplitClient:
        if not self.federation.split:
            raise Inapplicable(UNSPLIT)
        return self.federation.split_client(client)


def _by_round(messages: Sequence[RecordedMessage]) -> dict[tuple[int, str], list[RecordedMessage]]:
    found: dict[tuple[int, str], list[RecordedMessage]] = {}
    for message in messages:
        found.setdefault((message.round, message.client), []).append(message)
    return found


def tokens_of(activations: Tensor, batch: Batch, first_text: int) -> Tokens:
    """The real tokens of a batch from activations (B, T, D); texts are numbered from ``first_text``.

    Ids are those of the texts, also where ``privacy`` replaced tokens before the client half: these are to be found.
    """
    mask = batch.attention_mask.bool()
    texts = torch.arange(first_text, first_text + batch.n_examples)[:, None].expand(mask.shape)
    if activations.shape[:2] == (1, batch.n_tokens):  # texts one after another
        return Tokens(activations[0].cpu(), batch.original_ids[mask], texts[mask])
    # a client may pad further than its batch needs, to hide lengths
    return Tokens(activations[:, : mask.shape[1]].cpu()[mask], batch.original_ids[mask], texts[mask])


@torch.no_grad()
def token_vectors(base: FrozenBase) -> Tensor:
    """The input embedding (V, D) in the width of the blocks, to which ELECTRA has a linear layer."""
    vectors: Tensor = base.model.get_input_embeddings().weight.detach().float()  # type: ignore[operator]
    for path, layer in base.model.named_modules():
        if path in base.family.input_side and isinstance(layer, nn.Linear):
            vectors = functional.linear(vectors, layer.weight.float(), layer.bias.float())
    return vectors
