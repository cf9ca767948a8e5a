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


def test_the_claim_is_that_of_the_recorded_runs():
    split, whole = RECORDED["split"], RECORDED["federated"]
    memory, others = (f"{each['largest_client_bytes'] / 2**20:.0f}" for each in (split, whole))
    up, other_up = (f"{each['bytes_up'] / each['clients'] / 1e6:.0f}" for each in (split, whole))
    accuracy, other = (f"{statistics.fmean(each['accuracy'].values()):.3f}"[1:] for each in (split, whole))
    full = f"{RECORDED['full_fine_tuning_bytes'] / 2**20:.0f}"
    rounds = RECORDED["rounds"]
    claim = f"**{memory} MiB and {up} MB up a client in {rounds} rounds, instead of {others} MiB and {other_up} MB, "
    figures = f"({accuracy} and {other}, where differences below .02 mean nothing; {full} MiB for full"
    assert f"{claim}with no difference in accuracy seen** {figures}" in " ".join(README.split())
    assert abs(float(accuracy) - float(other)) < 0.02


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
