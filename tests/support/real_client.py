"""A client that takes a step for real, measured by what the federation measures with and by its live tensors."""

import torch
from transformers import AutoModel, AutoModelForCausalLM

from atlas_cli import SplitClient
from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.gelu import fuse_gelu
from atlas_cli.models.frozen.load import FrozenBase, from_config
from atlas_cli.models.frozen.output_embedding import output_embedding
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.saved_trace import LiveBytes
from atlas_cli.wire.messages import Features


def make_base(hf_config, dtype="float32", fused=False, quantization="none") -> FrozenBase:
    family = family_of(hf_config.model_type)
    auto = AutoModelForCausalLM if family.causal else AutoModel
    whole = from_config(auto, hf_config, getattr(torch, dtype)).requires_grad_(False).eval()
    base = whole.base_model if family.causal else whole
    for path in family.unused:
        setattr(base, path, None)
    if fused:
        fuse_gelu(base)
    head = output_embedding(whole) if family.causal else None
    return base_in_format(FrozenBase(base, head, family, "tiny", "random", ""), WeightFormat(dtype, quantization))


def features(base, targets="auto"):
    names = adapted_names(base.model, base.family, targets)
    paths = [f"{base.family.blocks}.{layer}.{name}" for layer in range(base.n_layers) for name in names]
    return {path: features_of(base.model.get_submodule(path)) for path in paths}


def batch_of(base, batch, tokens, padded):
    ids = torch.randint(0, base.config.vocab_size, (batch, tokens))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def measure(base, cut, rank, batch, tokens, padded, *, lora=None, training=None, task=None, **options):
    """What the client used in two steps, ranks by path, and the peak of its tensors."""
    lora, training = LoraConfig.model_validate(lora or {}), TrainingConfig.model_validate(training or {})
    head = task.build_head(base.hidden_size, base.lm_head) if task is not None else None
    client = SplitClient("a", None, rank, cut, base=base, lora=lora, training=training, task=task, head=head, **options)
    usage = client.measure()
    held = [*client.half.parameters(), *client.half.buffers(), *client.trained(), *client.output_embedding()]
    with LiveBytes(held) as live:
        for _ in range(2):
            message = client.forward(batch_of(base, batch, tokens, padded), 1, 0, None)
            width = message.activations
            if head is not None:
                labels = torch.zeros(batch, dtype=torch.int64)
                labels = labels if task.has_classes else torch.zeros(batch, tokens, dtype=torch.int64)
                client.answer_features(Features("a", torch.randn_like(width)), labels)
            client.apply_gradients(torch.ones_like(width) / width.numel())
            del message, width
    owned = usage.frozen_weights + usage.adapters + usage.heads
    ranks = {path: adapter.rank for path, adapter in client.adapters.adapters.items()}
    return usage, ranks, owned + live.peak


PARTS = ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "saved_activations", "cut_buffers")


def parts(memory):
    return {part: getattr(memory, part) for part in PARTS}
