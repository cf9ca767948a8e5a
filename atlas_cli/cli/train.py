"""``atlas train``: run an experiment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from atlas_cli.cli._arguments import ConfigFile, Overrides

if TYPE_CHECKING:
    from atlas_cli.config.load import LoadedConfig
    from atlas_cli.federation.build import Federation
    from atlas_cli.federation.verify import Check
    from atlas_cli.reports.progress import Progress
    from atlas_cli.runs.directory import RunDirectory


def command(file: ConfigFile, overrides: Overrides = None) -> None:
    """Train as FILE says and leave a run directory.

    The split is first proven equal to the unsplit model on real examples; a run that fails keeps what it wrote.
    Example: atlas train configs/quickstart.yaml training.rounds=3
    """
    from rich.console import Console

    from atlas_cli.config.load import load_config, locating
    from atlas_cli.reports.progress import progress_for

    loaded = load_config(file, overrides or [])
    console = Console()
    with locating(loaded), progress_for(console) as progress:
        _train(loaded, console, progress)


def _train(loaded: LoadedConfig, console: Any, progress: Progress) -> None:
    from atlas_cli.federation.build import build
    from atlas_cli.federation.verify import require_verified, verify_split
    from atlas_cli.planning.plan import make_plan
    from atlas_cli.runs.directory import RunDirectory

    config = loaded.config
    plan = make_plan(config)
    progress.note(
        f"{config.name}: {config.model.name}, cut after layer {plan.cut} of {plan.n_layers}, weights {plan.init}"
    )
    federation = build(config, plan)
    checks = verify_split(federation) if federation.server is not None else []
    require_verified(checks)
    for check in checks:
        progress.note(check.sentence())
    run = RunDirectory.create(config.output.dir, config.name, config.seed)
    progress.note(f"run directory {run.path}")
    _run(loaded, federation, checks, run, progress)
    _finish(run, console, progress)


def _run(
    loaded: LoadedConfig, federation: Federation, checks: list[Check], run: RunDirectory, progress: Progress
) -> None:
    """Train inside a run directory whose manifest says at every moment how it stands."""
    from atlas_cli.config.dump import dump_config
    from atlas_cli.federation.export import export_adapters
    from atlas_cli.federation.facts import data_facts, device_name, model_facts
    from atlas_cli.federation.recorder import Recorder
    from atlas_cli.federation.training import train
    from atlas_cli.models.load import current_sha256
    from atlas_cli.runs.manifest import Status, end_manifest, start_manifest

    config = loaded.config
    manifest = start_manifest(
        config.model_dump(mode="json"),
        sys.argv,
        config.seed,
        device_name(federation.device),
        threads=_threads(),
        model=model_facts(federation),
        data=data_facts(federation),
    )
    manifest["verify"] = {check.task_group: check.record() for check in checks}
    run.write_json("manifest.json", manifest)
    run.write_text("config.yaml", dump_config(config))
    try:
        progress.start(config.training.rounds, config.training.local_steps, federation.group_names)
        train(federation, Recorder(federation, run, progress))
        export_adapters(federation, run)
        manifest["base_unchanged"] = current_sha256(federation.base) == federation.base.sha256
        run.write_json("manifest.json", end_manifest(manifest, "finished"))
    except BaseException as error:
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        run.log(f"{status}: {type(error).__name__}: {error}")
        run.write_json("manifest.json", end_manifest(manifest, status, str(error) or type(error).__name__))
        raise


def _finish(run: RunDirectory, console: Any, progress: Progress) -> None:
    from atlas_cli.reports.html import write_report
    from atlas_cli.reports.tables import final_table

    progress.stop()
    manifest = run.read_json("manifest.json")
    report = write_report(run)
    data = manifest["data"] if console.width >= 100 else None
    console.print(final_table(run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl"), data))
    console.print(f"report {report}", markup=False, highlight=False, soft_wrap=True)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
