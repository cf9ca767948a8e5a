"""Mixtral and Qwen3-MoE: LLaMA's attention, and a feed-forward of experts of which a router picks a few a token."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families import llama


class Family(llama.Family):
    """Experts and routers are frozen: adapters go on the attention, whose layers are linear ones.

    Each token is computed by its own experts, so neither padding nor other texts of a batch change what it gets. The
    loss that keeps the load of experts even (``router_aux_loss_coef``) is not added, since no router is trained.
    ``model.quantization`` holds the layers of attention in fewer bits; the weights of experts, which are most of such a
    model, are no linear layers and stay as they are.
    """

    model_types = ("mixtral", "qwen3_moe")
    stages = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate.weight", "mlp.experts.gate_up_proj"),
        ("mlp.experts.down_proj",),
    )
    ends_in_norm = True  # the router's weights of a token's experts need their outputs, as a norm needs its input
    options = ("head_dim",)  # the attention reads it

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """Blocks of two kinds, a router's loss, and more experts a token than there are, are not covered."""
        if config.num_experts_per_tok > config.num_local_experts:
            yield "num_experts_per_tok", f"is more than the {config.num_local_experts} experts that there are"
        if getattr(config, "decoder_sparse_step", 1) != 1:
            yield "decoder_sparse_step", "puts blocks without experts among the others, which is not covered"
        if getattr(config, "mlp_only_layers", None):
            yield "mlp_only_layers", "names blocks without experts among the others, which is not covered"
        if config.output_router_logits:
            yield "output_router_logits", "asks for the loss of routers, which are frozen here; set it to false"
