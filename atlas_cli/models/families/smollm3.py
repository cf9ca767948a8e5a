"""SmolLM3: LLaMA's module tree; every fourth block has no rotary positions."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from atlas_cli.models.families import llama


class Family(llama.Family):
    """Which blocks have none, ``no_rope_layers`` says; where sliding windows are used, these are the ones with them."""

    model_types = ("smollm3",)

    def uncovered(self, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
        """Lists that are too short, and windows that are both used and not used, are not covered."""
        for name in ("no_rope_layers", "layer_types"):
            if len(getattr(config, name)) < config.num_hidden_layers:
                yield name, f"has fewer entries than there are blocks ({config.num_hidden_layers})"
        if not config.use_sliding_window and "sliding_attention" in config.layer_types:
            yield "use_sliding_window", "contradicts layer_types, which has sliding_attention"
