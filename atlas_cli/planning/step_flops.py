"""FLOPs of a client's local step, and of the server's for it, from a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from atlas_cli.planning.devices.cost import Work, client_step, codec_step, head_step, server_step
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.parameter_codec import ParameterCodec


def codec_flops(plan: Plan, client: ClientPlan, shape: Shape, alone: Sequence[int] | None = None) -> tuple[Work, float]:
    """FLOPs of encoding and decoding, of the client and of the server, for a batch of ``shape``.

    Args:
        alone: lengths of the texts that a frozen client sends; default: all of the batch.
    """
    of_client, of_server = codec_step(plan.codecs(client), shape.batch, shape.tokens, alone)
    return of_client, of_server.total


def end_flops(client: ClientPlan, coded_up: int, coded_down: int) -> tuple[float, float]:
    """FLOPs of a client at the end of a round: of encoding so many numbers that it sends, and of decoding those that it
    gets."""
    up, down = (ParameterCodec.of(client.wire, name) for name in ("adapters", "deliveries"))
    encoding = 0.0 if up is None else coded_up * up.encode_flops
    return encoding, 0.0 if down is None else coded_down * down.decode_flops


def step_flops(
    plan: Plan,
    client: ClientPlan,
    ranks: Mapping[str, int],
    task: BaseTask,
    shape: Shape,
    trained: Collection[str],
    alone: Sequence[int] | None = None,
) -> tuple[Work, float]:
    """FLOPs of the client and of the server for a batch of ``shape``.

    Args:
        ranks: of the client's adapters, by path; ``trained``: their trained parts.
        alone: lengths of the texts that a frozen client computes, each by itself; default: all of the batch.
    """
    blocks, above, cut = plan.block_shapes, plan.above(client.cut), client.cut
    batch, tokens, _ = shape
    own = [(batch, tokens)]
    if client.learns == "frozen":
        own = [(1, length) for length in ([tokens] * batch if alone is None else alone)]
    again = client.checkpointing
    probes = plan.config.training.zeroth_order.probes if client.learns == "zeroth-order" else None

    def steps(adapters: Mapping[str, int], parts: Collection[str]) -> Work:
        wide = plan.widths(adapters)
        each = (client_step(blocks, cut, wide, *of, checkpointing=again, trained=parts, probes=probes) for of in own)
        return sum(each, Work(0, 0))

    made = _factors(plan, ranks)
    backward = again * made.forward + made.backward if probes is None else probes * made.forward
    of_client = steps(ranks, trained) + Work(made.forward, backward)
    if beside := plan.beside(client):  # frozen, on layers that have trained ones
        whole, without = steps(beside, ()), steps(dict.fromkeys(beside, 0), ())
        of_client += Work(whole.forward - without.forward, whole.backward - without.backward)
    wide, parts = plan.widths(above), plan.form.parts
    of_server = server_step(blocks, cut, plan.n_layers, wide, batch, tokens, to_cut=client.waits, trained=parts).total
    of_server += _factors(plan, above).total
    head = head_step(task, plan.hidden_size, int(plan.hf_config.vocab_size), batch, tokens)
    if client.learns == "auxiliary":
        return of_client + head, of_server + head.total
    if plan.config.training.labels == "client":
        return of_client + Work(0, head.total), of_server
    return of_client, of_server + head.total


def _factors(plan: Plan, ranks: Mapping[str, int]) -> Work:
    """FLOPs of the factors of dW of a set of adapters, once a pass."""
    work = Work(0.0, 0.0)
    for path, rank in ranks.items():
        work += Work(*map(float, plan.form.step_flops(rank, plan.features[path][1])))
    return work
