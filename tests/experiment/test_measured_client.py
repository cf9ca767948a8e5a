"""A client that is measured in a process of its own."""

import pytest
from support.slow import slow
from support.tiny_models import CONFIGS

from atlas_cli.experiment.allocation.measured_client import _tiny, take_steps
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape


@pytest.mark.parametrize("family", slow(*CONFIGS))
def test_every_family_has_a_tiny_model_to_start_with(family, make_config, model_folder):
    plan = make_plan(make_config(model={"name": model_folder(family)}))
    name = plan.clients[0].name
    measured = take_steps(_tiny(plan, name), name, Shape(2, 4, True), ["x", "y"])
    assert 0 < measured.parts["frozen_weights"] < 2**16
