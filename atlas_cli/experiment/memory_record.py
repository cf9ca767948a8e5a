"""The content of memory.json: memory of all parties as measured in one round, and of the same model without a split.

The latter is traced on tensors without storage (``planning.memory.saved_trace``), in a batch like those of clients: a
real forward of the whole model with all its weights trained would take more memory than the run that it is compared
with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.measured_memory import Usage, tensor_bytes
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.planning.memory.party_memory import adapter_bytes, bytes_of, head_of
from atlas_cli.planning.memory.saved_trace import saved_by_all
from atlas_cli.planning.memory_of_codecs import delivered_parts
from atlas_cli.planning.memory_of_plan import reference_step, unsplit_ranks
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import MEMORY
from atlas_cli.wire.messages import Adapters


class MeasuredRound:
    """The measurement of one round: of the clients that begin it, and of the server."""

    def __init__(self, federation: Federation, number: int, present: Collection[str]) -> None:
        self.federation, self.number = federation, number
        self._usages: dict[str, Usage] = {
            name: federation.clients[name].measure(federation.tokens_of(name)) for name in present
        }
        # what each was delivered, which it keeps until the next delivery
        members = federation.aggregator.members
        self._codings = {name: coding for name in present if (coding := members[name].coding) is not None}
        self._began = {name: coding.began_bytes for name, coding in self._codings.items()}
        if federation.split:
            federation.server.measure()
        self._copies = self._copies_at_server()

    def end(self, files: RecordFiles | None) -> None:
        """Write the measurements, and stop measuring."""
        if files is not None:
            files.write_json(MEMORY, self.record())
            files.memory_is_missing = False
        for name in self._usages:
            self.federation.clients[name].usage = None
        self.federation.server.usage = None

    def record(self) -> dict[str, object]:
        """The content of memory.json."""
        of_server = self.federation.server.usage
        self._measure_kept_texts()
        for name, coding in self._codings.items():
            self._usages[name].kept_adapters = self._began[name] + coding.lost_bytes
        if of_server is not None:
            of_server.kept_adapters = self._copies
        clients = {name: usage for name, usage in self._usages.items() if usage.batch_size}
        idle = [name for name in self._usages if name not in clients]
        if of_server is not None and not of_server.batch_size:
            of_server = None
            idle.append("the server")
        optimizer = self.federation.aggregator.optimizer
        if of_server is not None and optimizer is not None:
            kept = tensor_bytes(optimizer.tensors().values())
            of_server = replace(of_server, optimizer=of_server.optimizer + kept)
        return {
            "unit": "bytes",
            "measured_in_round": self.number,
            "clients": {name: usage.record() for name, usage in clients.items()},
            "server": of_server.record() if of_server is not None else None,
            "not_measured": idle,
            "references": reference_memory(self.federation, list(clients.values())),
        }

    def _copies_at_server(self) -> int | None:
        """Bytes of what the server has to know of what each client with a codec of deliveries holds; None without.

        In one process these are the clients' own tensors, of idle ones those in the store.
        """
        aggregator, offload, away = self.federation.aggregator, self.federation.offload, dict[str, int]()
        ends = tuple(f".lora_{part}" for part in delivered_parts(aggregator.method))

        def delivered(held: Mapping[str, Tensor]) -> int:
            return tensor_bytes(t for name, t in held.items() if name.startswith("head.") or name.endswith(ends))

        copies = []
        for member in aggregator.members.values():
            if not member.exchanges or member.coding is None or member.coding.down is None:
                continue
            if offload is None or member.stored is None:
                copies.append(delivered(member.exchanged()))
                continue
            if (key := member.stored.exchanged) not in away:
                away[key] = delivered(offload.store.get(key))
            copies.append(away[key])
        return sum(copies) if copies else None

    def _measure_kept_texts(self) -> None:
        """What codecs keep of texts at both ends of the wire, at the end of the round."""
        wires = {name: self.federation.clients[name].wire for name in self._usages}
        keeping = {name: wire for name, wire in wires.items() if wire.numbered}
        for name, wire in keeping.items():
            self._usages[name].kept_texts = wire.kept_bytes("client")
            self._usages[name].text_tokens = wire.memory.tokens
        if self.federation.server.usage is not None and keeping:
            self.federation.server.usage.kept_texts = sum(wire.kept_bytes("server") for wire in keeping.values())


def reference_memory(federation: Federation, usages: Sequence[Usage]) -> dict[str, dict[str, object]]:
    """Bytes of full fine-tuning and of unsplit LoRA with AdamW, for memory.json.

    They depend on the config, the plan and the batch alone, not on earlier merges, evaluations or resuming.

    Args:
        usages: of clients that took a step; the batch of the one that saved most is used.
    """
    plan, base, training = federation.plan, federation.base, federation.config.training
    largest = max(usages, key=lambda u: u.saved_activations, default=None)
    if largest is None:
        shape = Shape(training.batch_size, training.max_length, False)
        which = "a full batch of the longest examples, as no client had one"
    else:
        shape = Shape(largest.batch_size, largest.batch_tokens // largest.batch_size, False)
        which = "the batch of the client that saved most"
    how = (
        f"traced without storage: one forward of the whole model, {shape.batch} x {shape.tokens} tokens, {which}; "
        "gradients and AdamW state from sizes"
    )
    ranks, step = unsplit_ranks(plan), reference_step(plan, shape)
    task = federation.data[federation.group_names[0]].task
    head = bytes_of(head_of(task, plan.hidden_size, base.lm_head))
    whole, output = meta_model(plan.hf_config, plan.family, base.dtype)  # not quantised, whatever the run's base is
    used = any(group.task.causal_only for group in federation.data.values())
    parameters = [*whole.parameters(), *(output.parameters() if output is not None and used else ())]
    everything = head + bytes_of(parameters)
    weights = head + bytes_of([*parameters, *whole.buffers()])  # buffers have neither gradients nor moments
    adapters, what = adapter_bytes(ranks, plan.sizes), (plan.family, plan.hf_config)
    trained = Adapters.closed_form(ranks, plan.sizes, plan.form.parts)

    def record(adapters: int, gradients: int, saved: int) -> dict[str, object]:
        parts = {"weights": weights, "adapters": adapters, "gradients": gradients, "optimizer": 2 * gradients}
        parts["saved_activations"] = saved
        return {**parts, "how": how, "total": sum(parts.values())}

    return {
        "full_fine_tuning": record(0, everything, saved_by_all(*what, {}, step, train_weights=True)),
        "unsplit_lora": record(adapters + plan.fixed_bytes(ranks), head + trained, saved_by_all(*what, ranks, step)),
    }
