"""Parties whose frozen weights are quantised: what they compute, hold, are sent and are proved to be."""

import pytest
from support.slow import slow

from atlas_cli.errors import AtlasError
from atlas_cli.experiment.split_check import require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.models.frozen.quantized import Quantized

NF4 = {"quantization": "nf4"}
ONE = {"clients": {"a": NF4}}


@pytest.mark.parametrize("family", ["gpt2", *slow("bert", "llama", "distilbert")])
def test_the_split_is_proved_against_the_quantised_model(family, make_federation):
    made = make_federation(family, model={"quantization": "int8"}, clients={"a": NF4, "b": {"quantization": "none"}})
    a, b, c = (made.clients[name].base for name in "abc")
    assert [base.quantization for base in (a, b, c)] == ["nf4", "none", "int8"] and c is made.base
    checks = {check.quantization: check for check in verify_split(made)}
    require_verified(list(checks.values()))
    assert set(checks) == {"nf4", "int8", None}
    for check in checks.values():
        assert max(check.loss_difference, check.gradient_difference) <= 1e-6 and check.gradient_norm > 1e-4
        assert check.packed_gradient_difference <= 1e-5 and check.server_quantization == "int8"
    assert checks["nf4"].rounding == a.rounding > checks["int8"].rounding == c.rounding > 0
    assert "layer 2 in nf4: loss differs by" in checks["nf4"].sentence()
    assert f"from the base by up to {a.rounding:.2g}" in checks["nf4"].sentence()


def test_a_changed_weight_is_not_trained_with(make_federation):
    made = make_federation("gpt2", **ONE)
    assert "quantization" not in verify_split(made)[-1].record()
    layer = next(m for m in made.clients["a"].half.modules() if isinstance(m, Quantized))
    layer.packed[3] ^= 1
    with pytest.raises(AtlasError, match=r"clients of task group g hold in nf4 are not the model's"):
        require_verified(verify_split(made))
