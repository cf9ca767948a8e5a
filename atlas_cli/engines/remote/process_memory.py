"""The memory that a process of a cluster reserves for its clients."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_cli.config.cohorts import cohort_size
from atlas_cli.engines.passes import pass_tokens
from atlas_cli.engines.remote.remote_round import GRAPHS
from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.kernel_order import prepacked_bytes
from atlas_cli.planning.client_rows import tokens_of
from atlas_cli.planning.memory_of_codecs import kept_texts_of_parties
from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.round_bytes import full_shape
from atlas_cli.units import parse_bytes

PROCESS = 512 * 2**20  # bytes of an interpreter with torch and transformers, besides what clients need


@dataclass(frozen=True)
class ProcessMemory:
    """The memory of each of the processes that serve the clients of a round.

    Attributes:
        steps: bytes of the interpreter and of what the clients of ``GRAPHS`` passes need at their peak, besides the
            weights, which they share.
        kept: bytes of what codecs keep of the texts of each client, most first.
        clients: the most that take part in a round.
        limit: bytes of ``kept`` that stay in the memory of a process (``engine.kept_texts``); None: all.
    """

    steps: int
    kept: tuple[int, ...]
    clients: int
    limit: int | None

    @classmethod
    def of(cls, federation: Federation) -> ProcessMemory:
        """That of the clients of a federation."""
        plan, config = federation.plan, federation.config
        kinds = {
            (c.task_group, c.cut, c.learns, tuple(c.ranks.items()), c.format, c.checkpointing, repr(c.wire)): c
            for c in plan.clients
        }
        tasks, shape = {group: data.task for group, data in federation.data.items()}, full_shape(config.training)
        needs = [client_memory(plan, client, tasks[client.task_group], shape) for client in kinds.values()]
        copies = max(prepacked_bytes(federation.bases[c.format], c.cut) for c in kinds.values())
        kept = kept_texts_of_parties(plan, {c.name: tokens_of(federation.train_features(c.name)) for c in plan.clients})
        sizes = [cohort_size(config.training.cohort, len(federation.members(g))) for g in federation.group_names]
        limit = config.engine.kept_texts
        graphs = GRAPHS
        if plan.one_by_one is None:  # clients of full batches that a pass has the tokens of, and no more than there are
            together = -(-pass_tokens(federation.base.hidden_size) // (shape.batch * shape.tokens))
            graphs = max(GRAPHS, min(GRAPHS * together, sum(sizes)))
        return cls(
            steps=PROCESS + copies + graphs * max(need.peak - need.frozen_weights for need in needs),
            kept=tuple(sorted((kept.get(client.name, 0) for client in plan.clients), reverse=True)),
            clients=sum(sizes),
            limit=None if limit is None else parse_bytes(limit),
        )

    def reserved(self, processes: int) -> int:
        """Bytes of each of so many, in one of which the clients that keep most may be together."""
        kept = sum(self.kept[: -(-self.clients // processes)])
        return self.steps + (kept if self.limit is None else min(kept, self.limit))
