"""Where to cut a model when nobody says."""

from __future__ import annotations

from atlas_cli.config.schema import ModelConfig
from atlas_cli.models.architectures import built_in
from atlas_cli.models.load import check_cut
from atlas_cli.models.resolve import model_config


def get_split_point(model_name: str) -> int:
    """The middle of a model, as a number of blocks on the client: gpt2 6, bert 6, llama 16.

    Known architecture names are answered offline; others are looked up as a folder, packaged model or hub id.

    Raises:
        ResourceError: the model cannot be found.
    """
    known = built_in(model_name)
    config = known if known is not None else model_config(ModelConfig.model_validate({"name": model_name}))[0]
    return check_cut(None, int(config.num_hidden_layers))
