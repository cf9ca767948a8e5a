"""The page "Your own data": its examples are read as it says, and it names every column and key."""

import re
from pathlib import Path

import pytest
import yaml
from support.tiny_models import word_tokenizer

from atlas_cli import discovery, tasks
from atlas_cli.config.schema.experiment import DataConfig, HoldoutConfig, PartitionConfig, TaskGroupConfig
from atlas_cli.data.read import read_group

PAGE = (Path(__file__).parents[2] / "docs" / "start" / "your-data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^<!-- data: (\S+) (\S+) -->\n```\w+\n(.*?)^```\n\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("task", "file", "rows", "config"), EXAMPLES, ids=[file for _, file, _, _ in EXAMPLES])
def test_an_example_is_read_as_the_page_says(task, file, rows, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (file, f"test-{file}"):
        Path(name).write_text(rows, encoding="utf-8", newline="\n")
    ((name, section),) = yaml.safe_load(config)["task_groups"].items()
    assert section["task"] == task and section["data"]["files"] == file
    section["data"]["test_files"] = f"test-{file}"
    found = read_group(name, TaskGroupConfig.model_validate(section), seed=0)
    assert len(found.train) == 2 and set(found.columns) >= set(tasks.load(task).fields)
    built = tasks.build(task, found.classes)
    tokenizer = word_tokenizer(causal=built.causal_only)
    assert all(built.encode(row, tokenizer, 64) for row in found.train)


def test_every_task_column_and_key_is_on_the_page():
    assert {task for task, _, _, _ in EXAMPLES} == set(discovery.own_names("tasks"))
    table = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", PAGE, re.MULTILINE))
    for name in discovery.own_names("tasks"):
        task = tasks.load(name)
        assert set(re.findall(r"`(\w+)`", table[name])) == {*task.fields, *task.optional_fields}, name
    named = set(re.findall(r"\b[a-z_]+\b", " ".join(re.findall(r"`([^`\n]+)`", PAGE))))
    keys = {
        key for section in (DataConfig, TaskGroupConfig, HoldoutConfig, PartitionConfig) for key in section.model_fields
    }
    assert not keys - named


def test_the_schema_says_of_every_column_what_it_holds_and_for_which_task():
    for name in discovery.own_names("tasks"):
        task = tasks.load(name)
        for field in (*task.fields, *task.optional_fields):
            assert f"`{name}`" in DataConfig.model_fields[field].description, (name, field)
