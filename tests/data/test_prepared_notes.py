"""What is said of prepared groups: columns that nobody reads, and texts that merged groups share."""

import csv
import json

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.data.prepare import prepare
from atlas_cli.models.frozen.load import load_tokenizer


@pytest.fixture
def notes_of(tmp_path, model_folder):
    """The notes of groups ``g`` and ``h`` that read the same 40 rows, and their groups."""

    def make(**changes):
        with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((f"the film was {i}", "ab"[i % 2]) for i in range(40))])
        task = {"task": "sequence-classification", "data": {"files": str(tmp_path / "d.csv")}}
        config = {
            "name": "two",
            "model": {"name": model_folder("bert"), "split_layer": 2},
            "task_groups": {"g": task, "h": task},
            "clients": {"a": {"task_group": "g"}, "b": {"task_group": "h"}},
            **changes,
        }
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        loaded = load_config(path, []).config
        groups = prepare(loaded, load_tokenizer(loaded.model), False)
        said = {name: [n for n in group.notes if "merged with" in n] for name, group in groups.items()}
        return said, groups

    return make


@pytest.mark.parametrize("changes", [{"aggregation": {"cross_group": {"strength": 0.5}}}, {"clustering": {"k": 2}}])
def test_test_texts_that_a_merged_group_learns_from_are_counted(notes_of, changes):
    notes, groups = notes_of(**changes)
    for name, other in ("gh", "hg"):
        trained = {row["text"] for row in groups[other].data.train}
        count = sum(row["text"] in trained for row in groups[name].data.test)
        assert count > 0
        assert notes[name] == [
            f"{count} of 8 test texts are training texts of task group {other}, whose adapters are merged with this"
            " one's; give both groups the same test part (test_files)"
        ]


@pytest.mark.parametrize("changes", [{}, {"clustering": {"by": "oracle"}}])
def test_groups_that_stay_apart_may_share_texts(notes_of, changes):
    assert notes_of(**changes)[0] == {"g": [], "h": []}


@pytest.mark.parametrize(("column", "said"), [(None, "'hint', 'site'"), ("site", "'hint'")])
def test_columns_that_are_not_read_are_named(tmp_path, model_folder, column, said):
    """Rows of another program's layout, whose ``hint`` no field is: everything but what rows are dealt out by."""
    rows = [{"prompt": f"what was it {i}", "hint": "x", "response": "good", "site": "ab"[i % 2]} for i in range(20)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "name": "t",
        "model": {"name": model_folder("qwen2"), "split_layer": 2},
        "task_groups": {"g": {"task": "instruction", "data": {"files": str(tmp_path / "d.jsonl")}}},
        "clients": {"a": {"task_group": "g"}, "b": {"task_group": "g"}},
        "partition": {"scheme": "column", "column": column} if column else {},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    loaded = load_config(tmp_path / "c.yaml", []).config
    assert f"columns that are not read: {said}" in prepare(loaded, load_tokenizer(loaded.model), True)["g"].notes
