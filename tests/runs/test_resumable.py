"""Which runs can be resumed."""

import pytest

from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import experiment_sha256, is_run_of, require_plugins, require_same, unlike_more_rounds
from atlas_cli.runs.run_status import runs_of


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


def test_a_run_from_before_a_key_was_there_is_one_of_a_config_that_has_its_default(make_config, tmp_path):
    config = make_config(output={"dir": str(tmp_path)})
    recorded = config.model_dump(mode="json")
    del recorded["privacy"]["delta"], recorded["evaluation"]["batch_size"]
    known = {"status": "finished", "started": "", "command": [], "model": {}, "data": {}, "parts": []}
    manifest = {**known, "config": recorded, "experiment_sha256": "of those days"}
    run = RunDirectory(tmp_path / "before")
    run.path.mkdir()
    run.write_json("manifest.json", manifest)
    assert is_run_of(config)(manifest) and [found.path for found, _ in runs_of(config)] == [run.path]
    for changed in ({"privacy": {"delta": 1e-6}}, {"seed": 1}):
        assert not is_run_of(make_config(output={"dir": str(tmp_path)}, **changed))(manifest)
    other = make_config(output={"dir": str(tmp_path)}, evaluation={"batch_size": 3})
    assert is_run_of(other)(manifest) and runs_of(other) == []  # it may change on resuming, and is another result
    whole = {**manifest, "config": config.model_dump(mode="json")}
    assert not is_run_of(config)(whole)
    assert is_run_of(config)({**whole, "experiment_sha256": experiment_sha256(config)})
