"""Proof that the split computes what the unsplit model computes.

Loss and every gradient, on real examples with padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from atlas_cli.data.collate import Batch, collate
from atlas_cli.errors import AtlasError
from atlas_cli.federation.build import Federation
from atlas_cli.federation.client import SplitClient, as_inputs
from atlas_cli.federation.server import SplitServer
from atlas_cli.federation.trainables import build_head
from atlas_cli.models.load import FrozenBase
from atlas_cli.models.lora import AdapterSet
from atlas_cli.models.placement import by_layer
from atlas_cli.models.split import run_half
from atlas_cli.planning.plan import ClientPlan
from atlas_cli.seeding import torch_generator
from atlas_cli.tasks._base import BaseTask, Feature

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Check:
    """The comparison for one task group.

    Attributes:
        loss_difference, gradient_difference: largest absolute differences from the unsplit model.
        gradient_norm: of the client's adapters, unsplit; zero would mean that nothing is trained.
        adapter_effect: how much the adapters change the loss; zero would mean that they are not attached.
    """

    task_group: str
    split_layer: int
    examples: int
    tokens: int
    padding_tokens: int
    loss_difference: float
    gradient_difference: float
    gradient_norm: float
    adapter_effect: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Equal within tolerance, and not trivially so."""
        # each compared by itself: max() would lose a NaN
        close = self.loss_difference <= self.tolerance and self.gradient_difference <= self.tolerance
        return close and self.gradient_norm > 0 and self.adapter_effect > 0

    def sentence(self) -> str:
        """For the screen and the log."""
        return (
            f"split = unsplit for {self.task_group} at layer {self.split_layer}: loss differs by "
            f"{self.loss_difference:.1e}, gradients by {self.gradient_difference:.1e} "
            f"({self.examples} examples, {self.padding_tokens} padding tokens)"
        )

    def record(self) -> dict[str, object]:
        """For the manifest and ``--json``."""
        return {**asdict(self), "passed": self.passed}


def verify_split(federation: Federation) -> list[Check]:
    """One check a task group and split layer, with the ranks of its first client; training state is not touched."""
    checks = []
    for group, prepared in federation.data.items():
        first = {client.cut: client for client in reversed(federation.plan.members(group))}
        for cut in sorted(first):
            features = spread_by_length(prepared.train[first[cut].name], 4)
            batch = collate(prepared.task, features, federation.pad)
            checks.append(_check(federation, group, prepared.task, first[cut], batch))
    return checks


def require_verified(checks: Sequence[Check]) -> None:
    """Refuse to go on with a split that is not the model.

    Raises:
        AtlasError: names the task group and the difference.
    """
    for check in checks:
        if not check.passed:
            raise AtlasError(
                f"the split at layer {check.split_layer} is not the unsplit model for task group {check.task_group}: "
                f"loss differs by {check.loss_difference:.3g}, gradients by {check.gradient_difference:.3g} "
                f"(tolerance {check.tolerance:.0e}; gradient norm {check.gradient_norm:.3g}, "
                f"effect of adapters {check.adapter_effect:.3g}); not trained"
            )


def spread_by_length(features: Sequence[Feature], count: int) -> list[Feature]:
    """Shortest, longest and examples between, so that a batch of them has padding."""
    ordered = sorted(features, key=lambda f: len(f["input_ids"]))
    last = len(ordered) - 1
    return [ordered[round(i * last / (count - 1))] for i in range(count)] if last > 0 else ordered


def _check(federation: Federation, group: str, task: BaseTask, planned: ClientPlan, batch: Batch) -> Check:
    config = federation.config
    lora = config.lora.model_copy(update={"dropout": 0.0})
    training = config.training.model_copy(update={"autocast": "off", "server_update": "pooled"})
    base, device, seed = federation.base, federation.device, config.seed
    head = build_head(base, task, seed, group, device)
    server = SplitServer(
        base=base,
        tasks={group: task},
        split_layer=planned.cut,
        device=device,
        rank=config.server.rank if planned.cut < base.n_layers else 0,
        lora=lora,
        training=training,
        seed=seed,
    )
    name, ranks = planned.name, federation.aggregator.members[planned.name].ranks
    u_shaped = training.labels == "client"
    client = SplitClient(
        name,
        rank_config=by_layer(ranks, base.family),
        split_layer=planned.cut,
        device=device,
        base=base,
        lora=lora,
        training=training,
        seed=seed,
        task=task,
        head=head if u_shaped else None,
    )
    upper = server.groups[group].adapters
    _randomise(client.adapters, seed)
    _randomise(upper, seed)

    server.begin_round({name: group}, 0)
    message = client.forward(batch.inputs(), 0, 0, None if u_shaped else batch.labels)
    if u_shaped:
        back, loss, _ = client.answer_features(server.features(message), batch.labels)
        reply = server.answer_gradients(back)
    else:
        reply, step_loss = server.answer(message)
        loss = step_loss.mean
    client.backward(reply.tensors["gradients"])
    server.accept()
    split = [p.grad for p in client.trained()] + server.groups[group].mean_gradients()

    whole_head = head if u_shaped else server.groups[group].head
    assert whole_head is not None
    wanted = [*client.trained(), *server.groups[group].parameters()]
    unsplit_loss = _unsplit_loss(base, task, batch, client.adapters, upper, whole_head, device)
    unsplit = torch.autograd.grad(unsplit_loss, wanted)
    plain = _unsplit_loss(base, task, batch, AdapterSet({}), AdapterSet({}), whole_head, device)
    size = max(1.0, max(float(g.abs().max()) for g in unsplit))
    n_lower = len(list(client.adapters.parameters()))
    return Check(
        task_group=group,
        split_layer=planned.cut,
        examples=batch.n_examples,
        tokens=batch.n_tokens,
        padding_tokens=batch.input_ids.numel() - batch.n_tokens,
        loss_difference=abs(loss - unsplit_loss.item()),
        gradient_difference=max(_difference(a, b) for a, b in zip(split, unsplit, strict=True)),
        gradient_norm=float(nn.utils.get_total_norm(unsplit[:n_lower])),
        adapter_effect=abs(unsplit_loss.item() - plain.item()),
        tolerance=TOLERANCE[next(base.model.parameters()).dtype] * size,
    )


def _unsplit_loss(
    base: FrozenBase,
    task: BaseTask,
    batch: Batch,
    lower: AdapterSet,
    upper: AdapterSet,
    head: nn.Module,
    device: torch.device,
) -> Tensor:
    """The loss by Hugging Face's own forward over the whole base."""
    inputs, mask = as_inputs(batch.inputs(), device)
    with lower.attached(base.model), upper.attached(base.model):
        hidden = run_half(base.model, mask, **inputs)
        loss, _ = task.loss(head(hidden, mask), batch.labels.to(device))
    return loss


@torch.no_grad()
def _randomise(adapters: AdapterSet, seed: int) -> None:
    # B = 0 would hide adapters that are not attached, and give A no gradient
    for path, adapter in adapters.adapters.items():
        noise = torch.randn(adapter.lora_B.shape, generator=torch_generator(seed, "verify", path))
        adapter.lora_B.copy_(0.02 * noise)


def _difference(a: Tensor | None, b: Tensor) -> float:
    gap = float((a - b).abs().max()) if a is not None else math.inf
    return math.inf if math.isnan(gap) else gap
