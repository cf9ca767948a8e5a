"""Adapter folders of tiny models as stock PEFT writes them, and what stock PEFT computes with them."""

from functools import cache

import peft
import torch

from atlas_cli.models.adapters.origin import Origin
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.halves.split import run_half
from support.tiny_models import CAUSAL, CONFIGS, tiny_model

IDS = torch.tensor([[7, 9, 11, 13, 8, 6], [20, 21, 22, 0, 0, 0]])
MASK = (IDS != 0).long()


@cache
def base_of(family):
    return as_base(tiny_model(family), family_of(CONFIGS[family]().model_type), family, "random")


def stock(family, causal_lm=False):
    """A model as the user of the exported adapter has it."""
    whole = tiny_model(family)
    return whole if causal_lm or family not in CAUSAL else whole.base_model


def randomise(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def output_of(model, causal_lm):
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK)
    return found.logits if causal_lm else found.last_hidden_state


def atlas_output(base, adapters, causal_lm):
    with torch.no_grad(), adapters.attached(base.model):
        hidden = run_half(base.model, MASK, input_ids=IDS)
        return base.lm_head(hidden) if causal_lm else hidden


def assert_same(mine, theirs, plain):
    """Equal on real tokens, and far from the model without adapters."""
    real = MASK.bool()
    torch.testing.assert_close(mine[real], theirs[real], rtol=0, atol=1e-5)
    assert (mine[real] - plain[real]).abs().max() > 1e-2


def made_by_peft(folder, family, causal_lm=False, save_embedding_layers="auto", **changes):
    """A PEFT adapter with random B, saved by PEFT, and its output."""
    model = stock(family, causal_lm)
    targets = [name.rpartition(".")[2] for name in adapted_names(base_of(family).model, base_of(family).family, "auto")]
    options = {"r": 4, "lora_alpha": 10, "target_modules": targets, "fan_in_fan_out": family == "gpt2", **changes}
    model = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    randomise((p for name, p in model.named_parameters() if "lora_" in name), 2)
    model.save_pretrained(str(folder), save_embedding_layers=save_embedding_layers)
    return output_of(model, causal_lm)


def reloaded(folder, family, causal_lm=False):
    """What stock PEFT computes with a folder on a fresh stock model."""
    return output_of(peft.PeftModel.from_pretrained(stock(family, causal_lm), str(folder)).eval(), causal_lm)


def origin_of(base, **changes):
    known = {"owner": "g", "base": base.name, "weights": base.init, "seed": None, "revision": None, "dtype": "float32"}
    task = {"task": "sequence-classification", "classes": ["a", "b", "c"], "pooling": "mean"}
    return Origin(**{**known, "sha256": base.sha256, **task, **changes})
