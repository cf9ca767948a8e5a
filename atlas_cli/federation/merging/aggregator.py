"""The part of the server that merges adapters and heads of each task group and delivers them, at any rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor, nn

from atlas_cli.aggregation import checks
from atlas_cli.aggregation.client_gradients import end_round
from atlas_cli.aggregation.contract import (
    PARTS,
    Adapters,
    BaseMethod,
    Context,
    Factors,
    Late,
    Layer,
    Parts,
    Update,
    absorb,
    elements,
    release,
    scales_of,
    truncated,
)
from atlas_cli.aggregation.error import ErrorLedger, base_errors, delivery_errors
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer
from atlas_cli.aggregation.mixing import mix, similarity
from atlas_cli.aggregation.selection import as_run
from atlas_cli.errors import AtlasError
from atlas_cli.federation.client_state.coding import Sent
from atlas_cli.federation.client_state.member import Member, one_of_each
from atlas_cli.federation.merging.coded_rows import RowsCodec
from atlas_cli.federation.merging.contested_layers import contested, updates_of_server
from atlas_cli.federation.merging.earlier_versions import EarlierVersions
from atlas_cli.federation.merging.group_weights import GroupWeights
from atlas_cli.federation.merging.heads import merge_head
from atlas_cli.federation.merging.merged_group import (
    MergedGroup,
    are_equal,
    checked_method_state,
    factors_to_merge,
    parts_of,
    require_finite_merge,
    to_merge,
)
from atlas_cli.federation.parties.trainables import Trainables
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.privacy.mechanisms.updates import UpdateNoise
from atlas_cli.storage.state_dict import (
    StateDict,
    copies,
    copy_into,
    fields_of,
    is_count,
    pop_prefix,
    require_value,
    tensors_and_values,
    with_prefix,
)
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import AdapterUpdate, Delivery, HeadDelivery, HeadUpdate
from atlas_cli.wire.parameter_codec import adapter_shapes


class Aggregator:
    """Server-side merge and delivery of group adapters and heads.

    Attributes:
        groups: what is merged of each task group or cluster.
        earlier: versions that clients still train on, if they wait for nobody (``training.asynchrony``).

    Args:
        method: how to merge.
        members: every client by name.
        groups: each task group's adapter before training, at the largest rank of its clients.
        heads: each task group's head (of its part in a cluster), where clients train heads (U-shaped and unsplit).
        features: (d_in, d_out) by layer.
        uppers: what the server trains for each task group. Where clients of a group have different split layers, the
            server trains the adapters in between: it enters the merge with the weight of the clients that it serves
            there, and receives the merged adapter.
        optimizer: by which rule groups and heads move by merged changes; None: as the method has it.
        keep_errors: compare every delivery with the exact sum.
    """

    def __init__(
        self,
        method: BaseMethod,
        members: Mapping[str, Member],
        groups: Mapping[str, AdapterSet],
        heads: Mapping[str, nn.Module],
        features: Mapping[str, tuple[int, int]],
        uppers: Mapping[str, Trainables] | None = None,
        *,
        optimizer: MergeOptimizer | None = None,
        keep_errors: bool = True,
    ) -> None:
        self.method, self.optimizer, self.keep_errors = method, optimizer, keep_errors
        adapted = dict.fromkeys(path for member in one_of_each(members).values() for path in member.ranks)
        self.features = {path: features[path] for path in adapted}
        self.noise: UpdateNoise | None = None
        self.earlier: EarlierVersions | None = None
        self.members = dict(members)
        self.group_weights = GroupWeights(self.members)
        self.groups = {
            name: MergedGroup(own, method, RowsCodec.of(name, members, method)) for name, own in groups.items()
        }
        self.heads = dict(heads)
        self.uppers = dict(uppers or {})

    def state_dict(self) -> StateDict:
        """``versions`` of all groups, ``merged/<group>/...``, ``group/<group>/...`` (the group's own adapters),
        ``head/<part>/...``, ``method/...``, ``optimizer/...`` where there is one, and ``change/<group>/...``."""
        checks.require_lossless(self.method, self.method.anew())
        versions = {name: group.version for name, group in self.groups.items()}
        state = {"versions": versions, **copies("", self._values()), **copies("method/", self.method.state_dict())}
        if self.optimizer is not None:
            state |= with_prefix("optimizer/", self.optimizer.state_dict())
        for name, group in self.groups.items() if self.method.CHANGES_BASE else ():
            state |= with_prefix(f"change/{name}/", group.change.state_dict())
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state with the groups that there are.

        Raises:
            StateError: other groups, names, shapes, types or versions.
        """
        state = dict(state)
        changes = {name: pop_prefix(f"change/{name}/", state) for name in self.groups if self.method.CHANGES_BASE}
        tensors, values = tensors_and_values(state, ["versions"])
        of_method = pop_prefix("method/", tensors)
        of_optimizer = pop_prefix("optimizer/", tensors) if self.optimizer is not None else {}
        versions = values["versions"]
        whole = isinstance(versions, Mapping) and all(map(is_count, versions.values()))
        require_value(whole, "versions", "are no whole numbers by group")
        require_value(versions.keys() == self.groups.keys(), "versions", f"are not those of {', '.join(self.groups)}")
        copy_into(self._values(), tensors)
        for name, change in changes.items():
            group = self.groups[name]
            features = {path: self.features[path] for path in group.merged}
            with fields_of(f"change/{name}"):
                group.change.load_state_dict(change, newest=versions[name], features=features, device=group.device)
        keeps = {name: self.method.extra_tensors(self.layers_of(g.adapters.ranks)) for name, g in self.groups.items()}
        self.method.load_state_dict(checked_method_state(of_method, self.groups, keeps))
        if self.optimizer is not None:
            one = next(iter(next(iter(self.groups.values())).merged.values())).A
            layers = {name: self.layers_of(group.adapters.ranks) for name, group in self.groups.items()}
            told = self.optimizer.told(layers, {part: dict(self._head(part)) for part in self.heads})
            with fields_of("optimizer"):
                self.optimizer.load_state_dict(of_optimizer, told, one)
        for name, group in self.groups.items():
            group.version = versions[name]

    def _values(self) -> dict[str, Tensor]:
        """Its own tensors but for changes of the base, by name."""
        values: dict[str, Tensor] = {}
        for name, group in self.groups.items():
            values |= group.tensors(name)
        for part, head in self.heads.items():
            values |= {f"head/{part}/{name}": parameter.detach() for name, parameter in head.named_parameters()}
        return values

    @property
    def exchanges(self) -> bool:
        """Whether clients send and receive anything."""
        return bool(self.method.SENT)

    @property
    def group_adapter(self) -> bool:
        """Whether a group has an adapter of its own to predict with."""
        return bool(self.method.GROUP_ADAPTER)

    def merge(self, group: str, clients: Sequence[str], ledger: Ledger, number: int) -> ErrorLedger | None:
        """Receive the updates of ``clients`` in round ``number`` and merge them; returns the delivery errors."""
        if not self.exchanges:
            return None
        return self.combine(group, {client: self.receive(client, ledger) for client in clients}, number)

    def combine(self, group: str, sent: Mapping[str, Mapping[str, Tensor]], number: int) -> ErrorLedger | None:
        """Merge received updates, by client, in round ``number``; returns the delivery errors.

        Raises:
            NonFiniteError: the result is not finite; the group keeps its adapter.
            AtlasError: the result is not what the contract of a method asks for.
        """
        if not any(sent.values()):
            return None
        clients = list(sent)
        updates = [self.update(client, own) for client, own in sent.items() if own]
        server_held = contested(self.uppers.get(group), self.groups[group].merged)
        updates += updates_of_server(server_held, [self.members[client] for client in clients])
        if self.noise is not None and self.noise.where == "server":
            current, head = self.groups[group].merged, self.head_of(clients[0])
            updates, sent = self.noise.mean(group, current, head, self.parts(clients[0]).sent, updates, sent)
        of_group = self.groups[group]
        before, change = of_group.merged, dict(of_group.change.total)
        context = Context(group, number, self.group_weights.by_rank(group, clients), of_group.version + 1)
        merge = checks.require_merge(self.method, self.method.aggregate(before, updates, context), before, context)
        layers = self.layers_of({path: factors.rank for path, factors in before.items()})
        checks.require_state(self.method, group, layers, next(iter(before.values())).A.dtype)
        if self.optimizer is not None:
            merge = self.optimizer.step(group, before, merge, updates)
        require_finite_merge(merge, self.method.state.get(group, {}), context)
        late = {} if self.earlier is None else self.earlier.late_heads(clients)
        if self.earlier is not None:
            self.earlier.keep(group, self.head_of(clients[0]))
        of_group.merged = merge.adapters
        of_group.version += 1
        of_group.change.grow(merge.base, of_group.version)
        heads = [client for client in sent if self.members[client].head is not None]
        for part in dict.fromkeys(self.members[client].part for client in heads):
            weights = {client: self.members[client].weight for client in heads if self.members[client].part == part}
            merge_head(self.method, self.optimizer, part, self._head(part), weights, sent, late)
        self._take_over(group)
        if late or not (self.keep_errors and self.group_adapter):
            return None  # late clients do not hold what their changes are added to: they have no exact sum
        if self.method.CHANGES_BASE:
            return base_errors(updates, before, change, of_group.change.total)
        if self.optimizer is not None:
            updates = self.optimizer.at_equal_steps(before, updates)
        return delivery_errors(self.method, merge, context.weights, updates)

    def held_of(self, client: str) -> dict[str, Factors]:
        """What it trains of its group's adapter, at its ranks."""
        member = self.members[client]
        return truncated(self.groups[member.group].offered_to(client, member.ranks), member.ranks)

    def prune(self, client: str) -> bool:
        """Lower a client's ranks after its local steps, as the method decides (hetlora); whether any is lower now."""
        if not self.method.PRUNES:
            return False
        adapters = self.members[client].adapters
        kept = self.method.pruned(self.held_of(client), factors_to_merge(adapters))
        smaller = {path: rank for path, rank in kept.items() if rank != adapters.ranks[path]}
        for path, rank in smaller.items():
            adapters.adapters[path].shrink(rank)
        return bool(smaller)

    def parts(self, client: str) -> Parts:
        """What a client trains for the next merge of its group, sends to it, and is delivered of it."""
        return self.method.parts_of(self.groups[self.members[client].group].version + 1)

    def is_behind(self, client: str) -> bool:
        """Whether a client's group has a newer version than the client was sent; never, where it has no adapters."""
        member = self.members[client]
        newer = self.exchanges and member.version != self.groups[member.group].version
        return member.exchanges and (member.version < 0 or newer)

    def layers_of(self, ranks: Mapping[str, int]) -> dict[str, Layer]:
        """The layer sizes (d_in, d_out, rank) of adapters of these ranks."""
        return {path: Layer(rank, *self.features[path]) for path, rank in ranks.items()}

    def deliver(self, client: str, ledger: Ledger) -> set[str]:
        """Bring a client to its group's current version, if it is behind; the parts ("A", "B", "head") it replaced.

        Raises:
            AtlasError: the client then does not hold, by hash, what was delivered.
        """
        member = self.members[client]
        first = member.version < 0
        if not self.is_behind(client):
            return set()
        scales, before = scales_of(member.adapters), to_merge(member.adapters.state())
        # what a client has not been given yet is no update of its own to keep
        held = self.held_of(client) if first else absorb(before, scales)
        of_group = self.groups[member.group]
        factors = self._delivered(of_group.offered_to(client, member.ranks), held, member.ranks)
        delivered = release(factors, scales)
        sent = PARTS if first else of_group.delivered_since(member.version)
        layers = self.layers_of(member.ranks)
        told, extras = checks.told_extras(self.method, layers), self.method.extras_for(member.group, layers)
        one = next(member.adapters.parameters())
        checks.require_tensors(self.method, "extras_for", extras, told.down, "down", dtype=one.dtype)
        message = Delivery(client, parts_of(delivered, sent), {n: t.to(one.device) for n, t in extras.items()})
        form, head = Delivery.closed_form(member.ranks, self.features, sent, elements(told.down)), self.head_of(client)
        down = Sent(message, form, HeadDelivery(client, head), member.head_bytes(), {**delivered, **head})
        if member.coding is not None:
            shapes, of = adapter_shapes(member.ranks, self.features, sent), (member.group, of_group.version)
            down = member.coding.deliver(down, None if first else member.exchanged(), shapes, of)
            delivered, head = ({name: down.values[name] for name in each} for each in (delivered, head))
        if down.adapters.tensors:
            ledger.count(down.adapters.with_header(member.compact), down.form)
        if member.term is not None:
            member.term.receive(message.extra)
        replaced = {part for part in PARTS if part in sent or not are_equal(parts_of(delivered, (part,)), before)}
        member.adapters.load(delivered)
        if self.method.CHANGES_BASE or self.method.SELECTS:
            beside, form = of_group.missing(client, member.version, member.ranks, self.features)
            if beside.named:
                ledger.count(beside.with_header(member.compact), form)
            self.attach_base(client)
        if head:
            ledger.count(down.head.with_header(member.compact), down.head_form)
            member.load_head(head)
            replaced.add("head")
        member.version = of_group.version
        member.delivered_sha256 = sha256_tensors({**delivered, **head})
        self.check_held(client)
        return replaced

    def _delivered(self, merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
        return checks.require_delivered(self.method, self.method.deliver(merged, held, ranks), truncated(merged, ranks))

    def mix(self, matrix_of: Callable[[Tensor], Tensor], groups: Collection[str]) -> None:
        """Mix the merged adapters of all groups, before they are delivered; heads stay apart.

        Args:
            matrix_of: from the cosines of the groups' updates (G, G) to the mixing matrix.
            groups: those that were merged in this round; the others keep their adapters.
        """
        merged = {name: group.merged for name, group in self.groups.items()}
        mixed = mix(merged, matrix_of(similarity(merged)))
        for group in (g for g in mixed if g in groups):
            self.groups[group].merged = mixed[group]
            self._take_over(group)

    def _take_over(self, group: str) -> None:
        """Load the merged values into the group's model and the server's own copies."""
        self.groups[group].load_merged()
        self.give_server(group)

    def give_server(self, group: str) -> None:
        """Load the merged values into the server's own copies of a group's adapters; nothing crosses the wire."""
        held = contested(self.uppers.get(group), self.groups[group].merged)
        delivered = self._delivered(self.groups[group].merged, factors_to_merge(held), held.ranks)
        held.load(release(delivered, scales_of(held)))
        if held.adapters:
            self.uppers[group].forget_moments(held.adapters)

    def check_held(self, client: str, *, anew: bool = False) -> None:
        """Check by hash that the client trains on exactly what was delivered (``Member.exchanged_sha256``)."""
        member = self.members[client]
        if member.exchanged_sha256(anew=anew) != member.delivered_sha256:
            raise AtlasError(f"client {client} does not hold what the server delivered to it")

    def attach_base(self, client: str) -> None:
        """Let a client of its group's current version run ``MergedGroup.frozen_for`` beside its weights."""
        member = self.members[client]
        self.groups[member.group].attach(client, member)

    def receive(self, client: str, ledger: Ledger) -> dict[str, Tensor]:
        """A client's messages at the end of a round.

        They hold the parts of its adapters that the method asks for, the tensors of its term (``extra.<name>``), and
        its head. A client that has neither sends none.
        """
        member = self.members[client]
        if not member.exchanges:
            return {}
        told = checks.told_extras(self.method, self.layers_of(member.ranks))
        extra = end_round(self.method, member.term, member.adapters, told) if member.term is not None else {}
        parts = self.parts(client).sent
        held = {**parts_of(member.adapters.state(), parts), **member.head_state()}
        if self.noise is not None:
            held = self.noise.protect(client, held, scales_of(member.adapters))
        message = AdapterUpdate(client, parts_of(held, parts), extra)
        form = AdapterUpdate.closed_form(member.ranks, self.features, parts, elements(told.up))
        head = {name: tensor for name, tensor in held.items() if name.startswith("head.")}
        up = Sent(message, form, HeadUpdate(client, head), member.head_bytes(), {**message.tensors, **head})
        if member.coding is not None:
            shapes, merge = adapter_shapes(member.ranks, self.features, parts), self.groups[member.group].version + 1
            offered = {**release(self.held_of(client), scales_of(member.adapters)), **self.head_of(client)}
            up = member.coding.upload(up, offered, shapes, merge)
        ledger.count(up.adapters.with_header(member.compact), up.form)
        if head:
            ledger.count(up.head.with_header(member.compact), up.head_form)
        return up.values

    def update(self, client: str, sent: Mapping[str, Tensor]) -> Update:
        """A client's update as scale-free factors."""
        member = self.members[client]
        scales = scales_of(member.adapters)
        # what is not uploaded is, for the server, what it has itself
        began = None if member.coding is None else member.coding.began(member.adapters.state())
        known = release(self.held_of(client), scales) if began is None else to_merge(began)
        message = AdapterUpdate.of(client, to_merge({n: t for n, t in sent.items() if not n.startswith("head.")}))
        adapters = absorb({**known, **parts_of(message.named, self.parts(client).sent)}, scales)
        of_group = self.groups[member.group]
        own = of_group.components(client, member.ranks)
        whole = as_run(of_group.merged, own, adapters)
        weight = member.weight if self.optimizer is None else self.optimizer.per_step(client, member.weight)
        late = None if began is None else Late(absorb(to_merge(began), scales), 1.0)
        update = Update(client, weight, whole, message.extra, late, own)
        return update if self.earlier is None else self.earlier.seen(update, self.held_of(client))

    def head_of(self, client: str) -> dict[str, Tensor]:
        """The group's head, named as in a client's messages; empty where clients have none."""
        member = self.members[client]
        return {f"head.{n}": p.detach() for n, p in self._head(member.part)} if member.head is not None else {}

    def _head(self, part: str) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.heads[part].named_parameters() if p.requires_grad] if part in self.heads else []
