"""OLMo 2: norms come after attention and feed-forward, and there are norms of all queries and of all keys together."""

from atlas_cli.models.families import llama


class Family(llama.Family):
    """Attention and feed-forward read the residual stream as it is."""

    model_types = ("olmo2",)
    ends_in_norm = True
