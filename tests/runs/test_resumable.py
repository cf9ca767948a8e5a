"""Which runs can be resumed."""

import pytest

from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import require_plugins, require_same, unlike_more_rounds


def test_a_package_that_a_plugin_came_from_and_that_is_gone_is_named(tmp_path):
    run = RunDirectory(tmp_path)
    plugins = ["tasks: causal-lm", "aggregation.methods: factor-median"]
    packages = {"lab-atlas": {"version": "1.5", "plugins": plugins}}
    known = {"status": "failed", "started": "", "command": [], "config": {}, "model": {}, "data": {}, "parts": []}
    run.write_json("manifest.json", {**known, "inputs": {"packages": packages}})
    with pytest.raises(ResourceError, match=r"median \(aggregation\.methods\) of the package lab-atlas 1\.5, and"):
        require_plugins(run)
    plugins.pop()
    run.write_json("manifest.json", {**known, "inputs": {"packages": packages}})
    require_plugins(run)


CODED = {"deliveries": {"codec": "int8"}}


@pytest.mark.parametrize(
    ("cohort", "changes", "warns"),
    [
        (0.67, {"wire": CODED}, True),
        (0.67, {"clients": {"a": {"task_group": "g", "wire": CODED}}}, True),
        (0.67, {"wire": {"adapters": {"codec": "int8"}}}, False),
        (1.0, {"wire": CODED}, False),
    ],
)
def test_rounds_after_a_coded_delivery_to_all_are_not_those_of_a_longer_run(make_config, cohort, changes, warns):
    def config(rounds):
        return make_config(training={"rounds": rounds, "cohort": cohort}, **changes)

    ended = {"status": "finished", "config": config(2).model_dump(mode="json")}
    assert bool(unlike_more_rounds(ended, 2, config(3))) == warns
    assert unlike_more_rounds({**ended, "status": "failed"}, 1, config(3)) is None  # the last round was not reached


def test_where_kept_texts_lie_may_change(make_config):
    before = make_config().model_dump(mode="json")
    require_same(before, make_config(engine={"kept_texts": "1 MiB"}))
    with pytest.raises(ConfigError, match=r"only these may: .*engine\.kept_texts"):
        require_same(before, make_config(engine={"prepack": None}))
