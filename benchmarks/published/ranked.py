"""Methods ranked by training stand-ins on real text: differences in points of accuracy within seeds.

The model is that of ``word_means``: a text is one token, the mean of MiniLM's pretrained embeddings of its words, and
one layer of 384 x 384 is adapted so that a fixed head tells the 20 classes of 20 Newsgroups. A run takes some seconds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compare_aggregation import BASELINES, CONFIG, finished
from paired import Interval, paired
from word_means import word_means

from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.session import start
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.directory import RunDirectory

SEEDS = 4
_LESS = ("task_groups.news.data.limit=4000", "task_groups.news.data.test_limit=2000", "evaluation.every=1000")
STAND_IN = """A stand-in for the models and texts of the papers: 4,000 texts of 20 Newsgroups, and 2,000 to test
on, each the mean of MiniLM's pretrained embeddings of its words (benchmarks/word_means.py). One layer of 384 x 384 is
adapted so that a fixed head tells the 20 classes; AdamW, learning rate 0.01, rounds of 10 steps of 32 texts. Seeds are
those of data, batches and weights, and differences are of the same seed. It is by orders smaller than the models of the
papers, so that only signs of differences are compared, in points of accuracy. Its task needs a rank of nearly 20, where
those of the papers need few: so most clients have rank 16 in place of small ranks.
"""
IT = f"[words](#words), {SEEDS} seeds"  # the section of the page that holds it


def alike(count: int, **partition: Any) -> dict[str, Any]:
    """Settings of so many clients of rank 16 that all take part in each of 10 rounds; iid, or as ``partition`` says."""
    scheme = {"scheme": "dirichlet-label", **partition} if partition else {"scheme": "iid"}
    return {
        "clients": {"a": {"task_group": "news", "rank": 16, "count": count}},
        "partition": {**scheme, "local_test": 0},
        "training.rounds": 10,
        "training.cohort": 1.0,
    }


def difference(
    method: str, against: str, settings: Mapping[str, Any], other: Mapping[str, Any] | None = None
) -> Interval:
    """Of the group's accuracy, in points; ``other``: settings of the second, where they are not those of the first."""
    pair = ((method, settings), (against, settings if other is None else other))
    return paired(*([100 * value for value in scores(name, changes)] for name, changes in pair))


def scores(method: str, settings: Mapping[str, Any]) -> tuple[float, ...]:
    """The accuracy of each seed; ``settings``: changes to word-means.yaml by key."""
    return tuple(_score(method, json.dumps(settings, sort_keys=True), seed) for seed in range(SEEDS))


@cache
def _score(method: str, settings: str, seed: int) -> float:
    folder = output()
    changes = [*word_means(folder / "word-means"), *_LESS, f"output.dir={folder}"]
    changes += [f"mode={method}" if method in BASELINES else f"aggregation.method={method}"]
    changes += [f"{key}={json.dumps(value)}" for key, value in json.loads(settings).items()]
    return _accuracy(load_config(CONFIG, [*changes, f"seed={seed}"]).config)


def _accuracy(config: ExperimentConfig) -> float:
    found: float = kept(config).read_lines("metrics.jsonl")[-1]["test"]["accuracy"]
    return found


def kept(config: ExperimentConfig) -> RunDirectory:
    """The run of this config that is in ``output`` already, or a new one."""
    return finished(output(), config) or start(config, PlainProgress(Terminal(quiet=True)))


@cache
def output() -> Path:
    """Where runs are kept, and found again: ``ATLAS_PUBLISHED_RUNS``, or a folder that ends with the process."""
    kept = os.environ.get("ATLAS_PUBLISHED_RUNS")
    return Path(kept) if kept else Path(_folder().name)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
