"""What a client holds and saves is predicted where it trains B alone (``ffa``), or a part of the components."""

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.planning.memory_of_plan import Shape, predict
from atlas_cli.planning.plan import make_plan

PARTS = ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "saved_activations", "cut_buffers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("gpt2", "split-federated"),
        ("bert", "federated"),
        ("gpt2", "federated"),
        ("llama", "split-federated"),
        ("distilbert", "split-federated"),
    ],
)
def test_predicted_and_measured(family, mode, model_folder, tmp_path):
    config = {
        "name": "x",
        "mode": mode,
        "model": {"name": model_folder(family), "split_layer": 2},
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": "x.csv"}}},
        "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 6}},
        "training": {"max_length": 32},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    said_of = {}
    for method in ("ffa", "fed-plora", "zero-pad", *(["ravan"] if family != "llama" else [])):
        heads = ["aggregation.options={heads: 2, size: 16}"] if method == "ravan" else []
        plan = make_plan(load_config(tmp_path / "c.yaml", [f"aggregation.method={method}", *heads]).config)
        shape = Shape(4, 16, True)
        said = predict(plan, {"g": ["x", "y"]}, dict.fromkeys("ab", shape)).clients["a"]
        found = take_steps(plan, "a", shape, ["x", "y"])
        assert {part: found.parts[part] for part in PARTS} == {part: getattr(said, part) for part in PARTS}
        assert said.peak == pytest.approx(found.peak, rel=0.05)
        said_of[method] = said
    beside = said_of["fed-plora"].adapters - said_of["zero-pad"].adapters
    assert beside == said_of["zero-pad"].adapters / 4 * (6 - 4) or mode == "federated"
    assert said_of["ffa"].optimizer < said_of["zero-pad"].optimizer
    assert said_of["ffa"].saved_activations <= said_of["zero-pad"].saved_activations
