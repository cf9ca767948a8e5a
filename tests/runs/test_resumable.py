"""Which runs can be resumed."""

import pytest

from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import require_plugins


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
