"""README: what it shows was recorded, its figures are those of the record, and it stays short."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from atlas_cli import discovery
from atlas_cli.config.load import load_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDED = json.loads((ROOT / "docs/scripts/quickstart.json").read_text(encoding="utf-8"))


def test_pictures_are_those_of_the_recorded_runs():
    done = subprocess.run([sys.executable, "docs/scripts/draw_readme.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def mean(mode, figure, form):
    return form.format(statistics.fmean(figure(run) for run in RECORDED[mode]))


def accuracy_of(run):
    return statistics.fmean(run["accuracy"].values())


def test_the_claim_is_that_of_the_recorded_runs():
    modes = ("split", "federated")
    memory, others = (mean(mode, lambda run: run["largest_client_bytes"] / 2**20, "{:.0f}") for mode in modes)
    up, other_up = (mean(mode, lambda run: run["bytes_up"] / run["clients"] / 1e6, "{:.0f}") for mode in modes)
    accuracy, other = (mean(mode, accuracy_of, "{:.3f}")[1:] for mode in modes)
    full = f"{statistics.fmean(RECORDED['full_fine_tuning_bytes']) / 2**20:.0f}"
    rounds, (*seeds, last) = RECORDED["rounds"], map(str, RECORDED["seeds"])
    claim = f"**{memory} MiB and {up} MB up a client in {rounds} rounds, instead of {others} MiB and {other_up} MB, "
    figures = f"({accuracy} and {other}, where differences below .02 mean nothing; {full} MiB for full"
    readme = " ".join(README.split())
    assert f"{claim}with no difference in accuracy seen** {figures}" in readme
    assert f"means of seeds {', '.join(seeds)} and {last} of `configs/quickstart.yaml`" in readme
    assert abs(float(accuracy) - float(other)) < 0.02


def test_the_page_of_results_has_the_recorded_figures():
    page = (ROOT / "docs/results/quickstart.md").read_text(encoding="utf-8")
    figures = {
        "memory of the largest client, MiB (measured in round 1)": (lambda run: run["largest_client_bytes"] / 2**20, 1),
        "memory of the smallest client, MiB": (lambda run: run["smallest_client_bytes"] / 2**20, 1),
        "sent up by all clients, MB": (lambda run: run["bytes_up"] / 1e6, 1),
        "sent down to all clients in training, MB": (lambda run: run["bytes_down"] / 1e6, 1),
        "sent down before the first round (frozen weights), MB": (lambda run: run["bytes_down_before"] / 1e6, 1),
        "mean of the four": (accuracy_of, 3),
    }
    for task in RECORDED["split"][0]["accuracy"]:
        figures[f"test accuracy: {task}"] = (lambda run, task=task: run["accuracy"][task], 3)
    for says, (figure, places) in figures.items():
        cells = []
        for mode in ("split", "federated"):
            values = [figure(run) for run in RECORDED[mode]]
            middle, least, most = (
                f"{value:.{places}f}" for value in (statistics.fmean(values), min(values), max(values))
            )
            cells.append(middle if least == most else f"{middle} ({least} to {most})")
        assert f"| {says} | {' | '.join(cells)} |" in page


def test_the_config_is_valid_as_it_stands(tmp_path):
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "readme.yaml").write_text(config, encoding="utf-8")
    rows = [f"please send number {n},{kind}\n" for n in range(40) for kind in ("billing", "sales")]
    (tmp_path / "mail.csv").write_text("body,kind\n" + "".join(rows), encoding="utf-8")
    loaded = load_config(tmp_path / "readme.yaml").config
    assert len(loaded.expanded_clients()) == 7 and loaded.task_groups["mail"].data.text == "body"


def test_counts_are_those_of_the_package():
    counted = {"methods": "aggregation.methods", "attacks": "audit.attacks"}
    for word, kind in counted.items():
        assert re.search(rf"\b{len(discovery.names(kind))} {word}\b", README), word


def test_it_fits_a_few_screens():
    assert len(README.splitlines()) < 150
