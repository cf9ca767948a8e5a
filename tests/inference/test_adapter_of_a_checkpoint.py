"""An adapter that is taken from a checkpoint is the one that the run's end wrote, and no other client's is made."""

import shutil

import pytest

from atlas_cli.inference.adapter_folders import adapter_folder, choose_owner
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.resumable import config_of


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("client", "made"), [("a", {"a"}), (None, set())])
def test_an_adapter_of_a_checkpoint_is_that_of_the_end_and_made_alone(make_toy_run, tmp_path, client, made):
    run = RunDirectory(shutil.copytree(make_toy_run().path, tmp_path / "run"))
    config, manifest = config_of(run), run.read_json("manifest.json")
    kind = f"clients/{client}" if client else "groups/g"
    whole = files(run.path / "adapters" / kind)
    del manifest["adapters_of_round"]  # as of a run that was killed
    run.write_json("manifest.json", manifest)
    with adapter_folder(run, config, choose_owner(config, client=client)) as (folder, _):
        assert files(folder) == whole != {}
        clients = folder.parent.parent / "clients"
        assert {each.name for each in clients.glob("*")} == made
