"""A base taken apart and put together again is the same one, with what was tied still tied."""

import pytest
import torch

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.frozen.row_embedding import by_rows
from atlas_cli.models.frozen.skeleton import contents_sha256, put_together, take_apart, weights_of


def held_rows(skeleton, tensors):
    return put_together(skeleton, tensors).model.get_input_embeddings().held.weight


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_put_together_is_what_was_taken_apart(model_folder, name):
    base = load_base(ModelConfig(name=model_folder(name)))
    skeleton, tensors = take_apart(base)
    again = put_together(skeleton, [tensor.clone() for tensor in tensors])
    assert contents_sha256(weights_of(again)) == contents_sha256(tensors)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(again.model(tokens).last_hidden_state, base.model(tokens).last_hidden_state)
    # what clients with rows of its embedding hold, and no table
    rows, held = take_apart(by_rows(base, tokens[0], None), layers=2, output=False)
    table = base.model.get_input_embeddings().weight
    assert torch.equal(held_rows(rows, held), table[tokens[0]]) and not any(t.shape == table.shape for t in held)
    if base.lm_head is not None:
        tied = [one.lm_head.weight is one.model.get_input_embeddings().weight for one in (base, again)]
        assert tied[0] == tied[1]
