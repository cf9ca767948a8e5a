"""The Python interface to the two sides of the split: parties that are built from the name of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.errors import ConfigError
from atlas_cli.federation.parties import split_client, split_server
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.models.frozen.load import FrozenBase, shared_base
from atlas_cli.models.halves.split import run_half
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask


class SplitClient(split_client.SplitClient):
    """A client that holds blocks ``0 .. split_layer-1``, frozen, and trains LoRA adapters on them.

    Args:
        client_id: its name in messages and records.
        model_name: hub id, local folder, GGUF file, packaged name or known architecture.
        rank_config: rank of all its layers, or by layer ``{0: 8, 1: 16}``.
        split_layer: number of blocks it keeps; default: the middle of the model.
        device: where it computes.
        init: "pretrained", "random" or "auto" (random where weights cannot be reached).
        base: a base to share, instead of ``model_name``; in a dtype of its own (``models.frozen.cast``) where the
            server's is another: activations are sent, and gradients come back, in the client's.
        lora, training: scale, dropout and targets; optimizer, clipping and precision.
        checkpointing: blocks keep their input only and run again in the backward.
        task, head: on the client only when labels stay there (U-shaped split).

    Raises:
        ConfigError: split layer or rank out of range, unsupported architecture.
        ResourceError: the model cannot be found.

    Example:
        >>> client = SplitClient("phone-1", "data/tiny-bert", rank_config={0: 8, 1: 2}, split_layer=2, init="random")
        >>> client.compute_activations({"input_ids": torch.tensor([[7, 8, 9]])}).shape
        torch.Size([1, 3, 64])
    """

    def __init__(
        self,
        client_id: int | str,
        model_name: str | None = None,
        rank_config: int | dict[int, int] = 8,
        split_layer: int | None = None,
        device: str | torch.device = "cpu",
        *,
        init: str = "pretrained",
        base: FrozenBase | None = None,
        lora: LoraConfig | None = None,
        training: TrainingConfig | None = None,
        seed: int = 0,
        task: BaseTask | None = None,
        head: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        setting = Setting(lora or LoraConfig(), training or TrainingConfig(), seed, torch.device(device))
        base = base if base is not None else shared_base(model_name, init, setting.device, seed)
        cut = base.check_cut(split_layer)
        ranks = setting.ranks(base, rank_config, range(cut), f"clients.{client_id}.rank")
        super().__init__(str(client_id), base, cut, ranks, setting, task=task, head=head, checkpointing=checkpointing)


class SplitServer(split_server.SplitServer):
    """The server that holds blocks ``split_layer ..`` and a head for each task group.

    Args:
        model_name: as for ``SplitClient``; its clients must name the same model and split layer.
        n_tasks: number of task groups, named "0", "1", ...; each classifies into ``num_classes``.
        split_layer: number of blocks that clients keep (the smallest, where they differ); default: the middle.
        num_classes: outputs of each head.
        base, tasks: a base to share and named task groups, instead of ``model_name``, ``n_tasks`` and ``num_classes``.
        rank: LoRA rank on the server half, adapters a task group; 0 trains heads only.
        first_layers: by task group, the smallest split layer of its clients, where groups differ.

    Raises:
        ConfigError: split layer or rank out of range, unsupported architecture.
        ResourceError: the model cannot be found.

    Example:
        >>> server = SplitServer("data/tiny-bert", n_tasks=2, split_layer=2, num_classes=3, init="random")
        >>> loss, gradient = server.compute_loss(torch.randn(4, 12, 64), torch.tensor([0, 1, 2, 0]), task_id=1)
        >>> gradient.shape
        torch.Size([4, 12, 64])
    """

    def __init__(
        self,
        model_name: str | None = None,
        n_tasks: int = 1,
        split_layer: int | None = None,
        num_classes: int = 2,
        device: str | torch.device = "cpu",
        *,
        init: str = "pretrained",
        base: FrozenBase | None = None,
        tasks: Mapping[str, BaseTask] | None = None,
        rank: int = 0,
        first_layers: Mapping[str, int] | None = None,
        lora: LoraConfig | None = None,
        training: TrainingConfig | None = None,
        seed: int = 0,
    ) -> None:
        setting = Setting(lora or LoraConfig(), training or TrainingConfig(), seed, torch.device(device))
        base = base if base is not None else shared_base(model_name, init, setting.device, seed)
        if tasks is None:
            pooling, classes = "last" if base.family.causal else "mean", [str(c) for c in range(num_classes)]
            tasks = {str(g): build_task("sequence-classification", classes, pooling) for g in range(n_tasks)}
        super().__init__(base, base.check_cut(split_layer), tasks, setting, rank, first_layers)

    def compute_loss(
        self, activations: Tensor, labels: Tensor, task_id: int | str = 0, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss of one batch and its gradient with respect to ``activations``; nothing is trained.

        Args:
            activations: (B, T, D), or (B, D) for sequences of one.
            labels: (B,) class numbers, or as the group's task has them.
            task_id: number or name of the task group.
            attention_mask: (B, T), 0 on padding; default: nothing is padding.

        Raises:
            ConfigError: no such task group.
        """
        name = str(task_id)
        if name not in self.groups:
            raise ConfigError(f"the server has no task group {name!r}, only: {', '.join(self.groups)}")
        received, trained = activations.detach().to(self.device).requires_grad_(), self.groups[name]
        hidden_BTD = received.unsqueeze(1) if received.dim() == 2 else received
        everything = torch.ones(hidden_BTD.shape[:2], dtype=torch.int64, device=self.device)
        mask_BT = everything if attention_mask is None else attention_mask.to(self.device)
        with trained.adapters.attached(self.base.model):
            hidden = run_half(self.half, mask_BT, inputs_embeds=hidden_BTD.to(self.base.dtype))
            loss, _ = self.tasks[name].loss(trained.logits(hidden, mask_BT), labels.to(self.device))
        (gradient,) = torch.autograd.grad(loss, [received])
        return loss.detach(), gradient
