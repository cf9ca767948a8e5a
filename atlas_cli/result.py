"""Experiments from Python: ``run`` trains one, ``load_run`` opens one, and a ``Result`` has what came of it.

Errors are exceptions, as ``atlas_cli.errors`` has them, and nothing is printed unless ``show=True``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from atlas_cli.config.load import LoadedConfig, config_of_text, load_config, locating
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import InterruptedRunError
from atlas_cli.notes import quietly
from atlas_cli.reports.on_round import OnRound, Records, calling, flat
from atlas_cli.reports.progress import Progress, progress_for
from atlas_cli.reports.summary import summarise
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory, open_run
from atlas_cli.runs.resumable import config_of, require_plugins

if TYPE_CHECKING:
    from atlas_cli.inference.export.exported import Exported
    from atlas_cli.inference.loaded_model import LoadedModel
    from atlas_cli.inference.scoring import Scores

Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Best:
    """The best round of a task group.

    Attributes:
        round: its number; 0 is before training.
        metric: by which it was chosen; ``better``: whether "higher" or "lower" values are.
        chosen_on: "validation", or "test" where there is no validation part; then the test figure flatters.
        test, validation: the metric on these parts in that round.
    """

    round: int
    metric: str
    better: str
    chosen_on: str
    test: float | None
    validation: float | None


@dataclass(frozen=True)
class Result:
    """A run: its records, and its trained models.

    Args:
        path: the run directory.

    Example:
        >>> result = load_run(max(Path("runs").glob("*_offline_0")))
        >>> result.status
        'finished'
        >>> [record["round"] for record in result.metrics]
        [0, 1]
        >>> result.best["entities"].metric
        'entity_f1'
        >>> result.predict([{"tokens": ["Anna", "lives", "in", "Berlin"]}])[0]["tokens"]
        ['Anna', 'lives', 'in', 'Berlin']
        >>> figures = result.evaluate().outcomes.figures
        >>> abs(figures["entity_f1"] - result.metrics[-1]["test_entity_f1"]) < 1e-6
        True
        >>> export = result.export("model")
        >>> export.loading.auto
        'AutoModelForTokenClassification'
    """

    path: Path

    @property
    def status(self) -> str:
        """How the run stands: "running", "finished", "failed" or "interrupted"."""
        return str(self.manifest["status"])

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was: versions, hashes, seeds, devices, and how it ended."""
        found: dict[str, Any] = self._run.read_json("manifest.json")
        return found

    @cached_property
    def config(self) -> ExperimentConfig:
        """The config, with all defaults."""
        return config_of(self._run)

    @property
    def metrics(self) -> Records:
        """A record for each round and task group, flat, as ``pandas.DataFrame`` takes it: ``test_accuracy``."""
        return flat(self._run.read_lines("metrics.jsonl"))

    @property
    def clients(self) -> Records:
        """A record for each round and client, flat."""
        return flat(self._run.read_lines("clients.jsonl"))

    @property
    def best(self) -> dict[str, Best]:
        """The best round of each task group that was evaluated."""
        return {
            each.task_group: Best(
                each.best_round, each.metric, each.better, each.chosen_on, each.best, each.best_validation
            )
            for each in summarise(self._run.read_lines("metrics.jsonl"), ())
            if each.best_round is not None and each.metric and each.better and each.chosen_on
        }

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def adapters(self) -> Path:
        """The folder of the adapters of the last round, in PEFT format."""
        return self.path / "adapters"

    def records(self, name: str) -> Records:
        """All lines of a file of records as they are, such as ``messages.jsonl``.

        Raises:
            ResourceError: it is damaged.
        """
        return self._run.read_lines(name)

    def resume(self, overrides: Overrides = (), on_round: OnRound | None = None, *, show: bool = False) -> Result:
        """Go on from the newest checkpoint, as ``run`` does.

        Args:
            overrides: of keys that may change, such as ``training.rounds``.

        Raises:
            AtlasError: as ``run``; or the run cannot go on.
        """
        from atlas_cli.experiment import session

        require_plugins(self._run)
        with _output(show):
            loaded = load_config(self.path / "config.yaml", _typed(overrides))
            return _done(loaded, on_round, lambda progress: session.resume(self._run, loaded, progress))

    def open_model(
        self,
        group: str | None = None,
        client: str | None = None,
        round: int | Literal["best"] | None = None,
        device: str | None = None,
    ) -> LoadedModel:
        """A trained model with its halves, adapters, head and tokenizer.

        Args:
            group, client: whose; neither where the run has one task group.
            round: after which round, of which a checkpoint is kept; None: the last.
            device: where it computes; None: where the run did.

        Raises:
            ConfigError: no such group, client, round or device.
            ResourceError: files are missing or damaged.
        """
        from atlas_cli.inference.adapter_folders import choose_owner
        from atlas_cli.inference.loaded_model import open_model
        from atlas_cli.inference.round_choice import chosen_round

        owner = choose_owner(self.config, group, client)
        number = chosen_round(self._run, owner, None if round is None else str(round))
        return open_model(self.path, group=group, client=client, round_number=number, device=device)

    def predict(
        self,
        rows: Iterable[str | Mapping[str, Any]],
        group: str | None = None,
        client: str | None = None,
        round: int | Literal["best"] | None = None,
    ) -> Records:
        """What a trained model says of rows without labels: each row with its prediction, in their order.

        Args:
            rows: texts, or rows with the columns of the task group's own data.
            group, client, round: as for ``open_model``.

        Raises:
            ConfigError: a row that the model cannot read; and as ``open_model``.
        """
        from atlas_cli.inference.input_rows import InputRow
        from atlas_cli.inference.predictions import Predictor, columns_of

        each = iter(rows)
        first = next(each, None)
        if first is None:
            return []
        lines = isinstance(first, str)
        given = (
            InputRow(f"rows[{number}]", {"text": row} if isinstance(row, str) else dict(row))
            for number, row in enumerate(chain([first], each))
        )
        loaded, head = self.open_model(group, client, round), next(given)
        return list(Predictor(loaded, columns_of(loaded, head, lines))(chain([head], given)))

    def evaluate(
        self,
        data: str | Path | None = None,
        split: Literal["test", "validation", "local"] = "test",
        group: str | None = None,
        client: str | None = None,
        round: int | Literal["best"] | None = None,
    ) -> Scores:
        """Score a trained model: ``outcomes.figures``, ``outcomes.interval(name)``, ``by_class``, ``confusion``.

        Args:
            data: a file, read as the task group's own data; None: a part of that.
            split: which part; "local" is that of the clients' own test rows.
            group, client, round: as for ``open_model``.

        Raises:
            ConfigError: no such part, or rows that do not fit; and as ``open_model``.
            ResourceError: the data is missing, or is not what it was.
        """
        from atlas_cli.inference.scored_parts import part_of_file, part_of_run
        from atlas_cli.inference.scoring import score

        loaded = self.open_model(group, client, round)
        return score(loaded, part_of_run(loaded, split) if data is None else part_of_file(loaded, str(data)))

    def export(
        self,
        to: str | Path,
        group: str | None = None,
        client: str | None = None,
        round: int | Literal["best"] | None = None,
        form: Literal["merged", "peft"] = "merged",
    ) -> Exported:
        """Write a trained model to a new folder that transformers, PEFT or sentence-transformers load.

        Args:
            group, client, round: as for ``open_model``.
            form: a whole model, or an adapter for PEFT.

        Raises:
            OutputError: there is something in the folder, or it cannot be written.
            AtlasError: stock tools do not give the run's logits; and as ``open_model``.
        """
        from atlas_cli.inference.export.to_folder import export, new_folder

        new_folder(to)  # before a model is loaded
        return export(self.open_model(group, client, round, device="cpu"), to, form)

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.path)


def run(
    config: str | Path | Mapping[str, Any],
    overrides: Overrides = (),
    on_round: OnRound | None = None,
    *,
    show: bool = False,
) -> Result:
    """Train as a config says, and leave a run directory, as ``atlas train`` does.

    Args:
        config: a YAML file, the name of an example, or what a YAML file would hold; relative paths in it are then
            relative to the working directory.
        overrides: ``{"training.rounds": 3}``, or as on the command line ``["training.rounds=3"]``.
        on_round: is given the records of each round once it is kept, one for each task group, as ``Result.metrics``
            has them. An exception in it ends the run, which can be resumed after that round.
        show: print what ``atlas train`` prints.

    Raises:
        ConfigError, ResourceError: the config cannot be run; no run directory is left.
        AtlasError: the run failed; what it wrote is kept.
        KeyboardInterrupt: the run was interrupted after its last whole round was kept; ``Result.resume`` goes on.

    Example:
        >>> result = run("offline", {"training.rounds": 1}, on_round=lambda records: print(records[0]["round"]))
        0
        1
        >>> result.status
        'finished'
    """
    from atlas_cli.experiment import session

    with _output(show):
        loaded = _loaded(config, _typed(overrides))
        return _done(loaded, on_round, lambda progress: session.start(loaded.config, progress))


def load_run(path: str | Path) -> Result:
    """Open a run directory, whatever state the run is in.

    Raises:
        ResourceError: it is none.

    Example:
        >>> load_run(max(Path("runs").glob("*_offline_0"))).status
        'finished'
    """
    return Result(open_run(path).path)


def _done(loaded: LoadedConfig, on_round: OnRound | None, work: Callable[[Progress], RunDirectory]) -> Result:
    try:
        with locating(loaded), progress_for(Terminal()) as progress:
            return Result(work(progress if on_round is None else calling(progress, on_round)).path)
    except InterruptedRunError as error:
        notes = getattr(error, "__notes__", ())
        raise KeyboardInterrupt("; ".join([str(error), *notes])) from error


def _loaded(config: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> LoadedConfig:
    if not isinstance(config, Mapping):
        return load_config(config, overrides)
    text = yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False)
    return config_of_text(text, Path.cwd() / "config", overrides)


def _typed(overrides: Overrides) -> list[str]:
    """Overrides as they are typed on the command line; JSON is YAML."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]
    return list(overrides)


def _output(show: bool) -> AbstractContextManager[None]:
    return nullcontext() if show else quietly()
