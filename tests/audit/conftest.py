"""A tiny experiment whose messages are recorded."""

import pytest
from support.toy_runs import toy_config, write_data


@pytest.fixture(scope="session")
def toy(tmp_path_factory, model_folder):
    """``toy(task=..., **changes)``: the config of one group and three clients, as a dictionary."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)

    def make(**changes):
        return toy_config(model_folder, folder, tmp_path_factory.mktemp("runs"), **changes)

    return make


@pytest.fixture(scope="session")
def trained(toy):
    """``trained(**changes)``: the run directory of such a config; trained once a session and change."""
    from atlas_cli.config.schema.experiment import ExperimentConfig
    from atlas_cli.experiment import end_of_run, session
    from atlas_cli.reports.progress import progress_for
    from atlas_cli.reports.terminal import Terminal

    made = {}

    def make(**changes):
        key = repr(changes)
        if key not in made:
            with pytest.MonkeyPatch.context() as patch, progress_for(Terminal(quiet=True)) as progress:
                patch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", ""))
                made[key] = session.start(ExperimentConfig.model_validate(toy(**changes)), progress)
        return made[key]

    return make
