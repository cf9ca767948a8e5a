from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest

from atlas_cli.config import checks
from atlas_cli.config.load import load_config, locating
from atlas_cli.errors import ConfigError

GOOD = """\
name: good
model:
  name: minilm
lora: {rank: 8}
task_groups:
  questions:
    task: sequence-classification
    data: {corpus: trec-questions}
clients:
  phone-1:
    task_group: questions
    rank: 4
  laptops: {task_group: questions, count: 2}
training:
  rounds: 3
"""
SCHEMA = "(atlas config schema lists all keys)"
NAME_RULE = "a name starts with a letter or digit and holds only those, '.', '_' and '-'"


def failing(tmp_path, monkeypatch, text: str, overrides: list[str] | None = None) -> ConfigError:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml", overrides or [])
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        # unknown keys
        ("rank: 4", "rnak: 4", f"x.yaml:12: clients.phone-1.rnak is not a known key; did you mean rank? {SCHEMA}"),
        ("training:", "trainig:", f"x.yaml:14: trainig is not a known key; did you mean training? {SCHEMA}"),
        ("  rounds: 3", "  round: 3", f"x.yaml:15: training.round is not a known key; did you mean rounds? {SCHEMA}"),
        (
            "lora: {",
            "rounds: 3\nlora: {",
            f"x.yaml:4: rounds is not a known key; did you mean training.rounds or audit.record.rounds? {SCHEMA}",
        ),
        (
            "  rounds: 3",
            "  lr: 0.1",
            "x.yaml:15: training.lr is not a known key; did you mean training.client_optimizer.lr or "
            f"training.server_optimizer.lr? {SCHEMA}",
        ),
        (
            "    data: {corpus: trec-questions}",
            "    data: {corpus: trec-questions}\n    text: body",
            f"x.yaml:9: task_groups.questions.text is not a known key; did you mean "
            f"task_groups.questions.data.text? {SCHEMA}",
        ),
        (
            "training:\n",
            "evaluation:\n  zzz: 1\ntraining:\n",
            f"x.yaml:15: evaluation.zzz is not a known key; expected one of: batch_size, every, generate {SCHEMA}",
        ),
        ("  name: minilm", "  nmae: minilm", f"x.yaml:3: model.nmae is not a known key; did you mean name? {SCHEMA}"),
        ("training:\n", "training:\n  7: 1\n", "x.yaml:15: training.7 is not a known key"),
        # types
        (
            "rank: 4",
            "rank: '2'",
            "x.yaml:12: clients.phone-1.rank: expected an integer or a mapping such as {0: 8, 1: 16} or auto, "
            "got '2' (text)",
        ),
        ("rounds: 3", "rounds: '2'", "x.yaml:15: training.rounds: expected an integer, got '2' (text)"),
        ("rounds: 3", "rounds: 2.0", "x.yaml:15: training.rounds: expected an integer, got 2.0"),
        ("rounds: 3", "rounds: true", "x.yaml:15: training.rounds: expected an integer, got true (not quoted)"),
        ("rounds: 3", "rounds:", "x.yaml:15: training.rounds: expected an integer, got nothing"),
        ("rounds: 3", "rounds: [1]", "x.yaml:15: training.rounds: expected an integer, got a list"),
        ("rounds: 3", "cohort: half", "x.yaml:15: training.cohort: expected a number, got 'half' (text)"),
        ("{rank: 8}", "{rslora: yes}", "x.yaml:4: lora.rslora: expected true or false, got 'yes' (text)"),
        ("name: good", "name: 12", 'x.yaml:1: name: expected text, got 12; write "12" in quotes'),
        (
            "lora: {rank: 8}",
            "lora:",
            "x.yaml:4: lora: expected 'key: value' lines, got nothing; write {} for its defaults, or remove it",
        ),
        (
            "lora: {rank: 8}",
            "lora: [8]",
            "x.yaml:4: lora: expected 'key: value' lines, got a list; its keys are rank, alpha, dropout",
        ),
        (
            "  rounds: 3",
            "  drift: scaffold",
            "x.yaml:15: training.drift: expected 'key: value' lines, got 'scaffold' (text); write {name: scaffold}",
        ),
        (
            "  rounds: 3",
            "  drift: scafold",
            "x.yaml:15: training.drift: expected 'key: value' lines, got 'scafold' (text); its keys are name, mu",
        ),
        ("{rank: 8}", "{targets: q_proj}", "x.yaml:4: lora.targets: expected auto or a list, got 'q_proj' (text)"),
        (
            "{rank: 8}",
            "{targets: [q, true]}",
            'x.yaml:4: lora.targets.1: expected text, got true (not quoted); write "true" or "True" in quotes',
        ),
        ("{rank: 8}", "{targets: [q, 1]}", 'x.yaml:4: lora.targets.1: expected text, got 1; write "1" in quotes'),
        ("rank: 4", "rank: {0: 4, 1: x}", "x.yaml:12: clients.phone-1.rank.1: expected an integer, got 'x' (text)"),
        (
            "rank: 4",
            "rank: {int: 4}",
            "x.yaml:12: clients.phone-1.rank.int: keys here are whole numbers, got 'int' (text)",
        ),
        ("  phone-1:", "  1:", 'x.yaml:10: clients.1: names are text; write "1" in quotes'),
        ("  phone-1:", "  my phone:", f"x.yaml:10: clients.my phone: 'my phone' (text): {NAME_RULE}"),
        ("  phone-1:", '  "[key]":', f"x.yaml:10: clients.[key]: '[key]' (text): {NAME_RULE}"),
        (
            "  laptops: {task_group: questions, count: 2}",
            '  "[key]": 1',
            f"x.yaml:13: clients.[key]: '[key]' (text): {NAME_RULE}",
        ),
        # ranges and choices
        ("rounds: 3", "rounds: 0", "x.yaml:15: training.rounds: must be at least 1, got 0"),
        ("rounds: 3", "cohort: 0.0", "x.yaml:15: training.cohort: must be greater than 0, got 0.0"),
        ("rounds: 3", "cohort: 1.5", "x.yaml:15: training.cohort: must be at most 1, got 1.5"),
        ("{rank: 8}", "{dropout: 1}", "x.yaml:4: lora.dropout: must be less than 1, got 1"),
        ("rank: 4", "rank: 0", "x.yaml:12: clients.phone-1.rank: must be at least 1, as only a client that learns"),
        ("rank: 4", "rank: {}", "x.yaml:12: clients.phone-1.rank: rank must be at least 1"),
        (
            "rounds: 3",
            "server_update: poled",
            "x.yaml:15: training.server_update: 'poled' (text) is not known; expected one of: per-client, pooled, "
            "sequential; did you mean pooled?",
        ),
        ("rounds: 3", "labels: 1", "x.yaml:15: training.labels: expected server or client, got 1"),
        (
            "task: sequence-c",
            "task: seqence-c",
            "x.yaml:7: task_groups.questions.task: 'seqence-classification' is not known; expected one of: causal-lm, ",
        ),
        (
            "training:",
            "device: gpu\ntraining:",
            "x.yaml:14: device: 'gpu' (text) is not a device; write auto, cpu, mps, cuda or cuda:0",
        ),
        ("name: good", "name: a b", f"x.yaml:1: name: 'a b' (text): {NAME_RULE}"),
        ("name: good", "name: " + "a" * 81, "x.yaml:1: name: must have at most 80 characters, got 81"),
        (
            "training:",
            "training:\n  client_optimizer: {betas: [0.9]}",
            "x.yaml:15: training.client_optimizer.betas: must have at least 2 entries, got 1",
        ),
        (
            "{corpus: trec-questions}",
            "{}",
            "x.yaml:8: task_groups.questions.data: give exactly one of: corpus, files, glue, hub",
        ),
        (
            "{corpus: trec-questions}",
            "{corpus: 3}",
            "x.yaml:8: task_groups.questions.data.corpus: expected text or a list, got 3",
        ),
        # missing keys
        ("name: good\n", "", "x.yaml: name: is missing"),
        ("    task: sequence-classification\n", "", "x.yaml:6: task_groups.questions.task: is missing"),
        ("{task_group: questions, count: 2}", "{count: 2}", "x.yaml:13: clients.laptops.task_group: is missing"),
        # keys against each other
        (
            "{task_group: questions, count: 2}",
            "{task_group: qestions}",
            "x.yaml:13: clients.laptops.task_group: no task group 'qestions'; did you mean questions?",
        ),
        (
            "clients:",
            "  spam: {task: causal-lm, data: {corpus: sms-spam}}\nclients:",
            "x.yaml:9: task_groups.spam: no client trains this group; add a client with this task_group, or remove it",
        ),
        (
            "  name: minilm",
            "  name: minilm\n  config: {n_layer: 2}",
            "x.yaml:4: model.config: changes the shape of the model, so it needs model.init: random (or auto)",
        ),
        (
            "training:",
            "  laptops-2: {task_group: questions}\ntraining:",
            "x.yaml:14: clients.laptops-2: a client named laptops-2 also comes from clients.laptops; rename one of "
            "the two",
        ),
        (
            "training:",
            "partition: {scheme: column}\ntraining:",
            "x.yaml:14: partition.scheme: scheme column needs partition.column",
        ),
        (
            "training:",
            "partition: {column: author}\ntraining:",
            "x.yaml:14: partition.column: is only used with scheme: column, but scheme is iid",
        ),
        (
            "training:",
            "partition: {scheme: explicit}\ntraining:",
            "x.yaml:14: partition.scheme: scheme explicit needs partition.shards",
        ),
        (
            "training:",
            "partition:\n  scheme: explicit\n  shards: {phone-1: [1], laptops-1: [2], laptops-2: [3],\n    phone-2: "
            "['0-9']}\ntraining:",
            "x.yaml:17: partition.shards.phone-2: no client has this name; did you mean phone-1?",
        ),
        (
            "training:",
            "partition: {scheme: explicit, shards: {phone-1: [1], laptops-2: [2]}}\ntraining:",
            "x.yaml:14: partition.shards: client laptops-1 has no shard",
        ),
        (
            "training:",
            "partition: {scheme: explicit, shards: {phone-1: [1]}}\ntraining:",
            "x.yaml:14: partition.shards: clients laptops-1, laptops-2 have no shard",
        ),
        (
            "rounds: 3",
            "labels: client\nmode: federated",
            "x.yaml:15: training.labels: labels: client needs mode: split-federated, but mode is federated",
        ),
        (
            "{corpus: trec-questions}",
            "{corpus: trec-questions}\n    classes: [b, a, b]",
            "x.yaml:9: task_groups.questions.classes: named twice: b",
        ),
        (
            "count: 2",
            "count: 1000000000000",
            "x.yaml:13: clients.laptops.count: more than 1,000,000 clients; expected fewer, got 1,000,000,000,000",
        ),
        (
            "count: 2}",
            "count: 600000}\n  tablets: {task_group: questions, count: 500000}",
            "x.yaml:13: clients.laptops.count: more than 1,000,000 clients; expected fewer, got 1,100,001 of all "
            "entries, of which this has most",
        ),
        (
            "training:",
            "partition: {unmatched: drop}\ntraining:",
            "x.yaml:14: partition.unmatched: is only used with scheme: column, but scheme is iid",
        ),
        (
            "rounds: 3",
            "server_optimizer: {betas: [0.9, 1.0]}",
            "x.yaml:15: training.server_optimizer.betas.1: must be at least 0 and less than 1, got 1",
        ),
        # strict YAML
        ("rounds: 3", "rounds: 010", "x.yaml:15: training.rounds: 010 has a leading zero; write 10"),
        ("rounds: 3", "rounds: 3\n  rounds: 4", "x.yaml:16: training.rounds: duplicate key; it is already on line 15"),
    ],
)
def test_one_mistake_is_one_line(tmp_path, monkeypatch, old: str, new: str, error: str) -> None:
    assert GOOD.count(old) == 1
    message = str(failing(tmp_path, monkeypatch, GOOD.replace(old, new)))
    assert message.startswith(error)
    assert "\n" not in message


def test_the_error_carries_key_and_place(tmp_path, monkeypatch) -> None:
    error = failing(tmp_path, monkeypatch, GOOD.replace("rounds: 3", "rounds: 0"))
    assert (error.key, error.where, error.exit_code) == ("training.rounds", "x.yaml:15", 2)


def test_several_mistakes_are_a_line_each_in_the_order_of_the_file(tmp_path, monkeypatch) -> None:
    text = GOOD.replace("rounds: 3", "rounds: 0").replace("rank: 4", "rnak: 4").replace("name: good\n", "name: []\n")
    assert str(failing(tmp_path, monkeypatch, text, ["lora.rank=x"])).splitlines() == [
        "x.yaml:1: name: expected text, got a list",
        f"x.yaml:12: clients.phone-1.rnak is not a known key; did you mean rank? {SCHEMA}",
        "x.yaml:15: training.rounds: must be at least 1, got 0",
        "command line: lora.rank: expected an integer or a mapping such as {0: 8, 1: 16}, got 'x' (text); write e.g. 8",
    ]


def test_many_mistakes_are_cut_short(tmp_path, monkeypatch) -> None:
    text = GOOD + "".join(f"  wrong{i}: 1\n" for i in range(50))
    lines = str(failing(tmp_path, monkeypatch, text)).splitlines()
    assert len(lines) == 21 and lines[-1] == "x.yaml: 30 more"


def test_shards_of_many_unknown_clients_take_no_time(tmp_path, monkeypatch) -> None:
    shards = ", ".join(f"x{i}: [{i}]" for i in range(3000))
    text = GOOD.replace("count: 2", "count: 3000") + f"partition: {{scheme: explicit, shards: {{{shards}}}}}\n"
    began = time.process_time()
    lines = str(failing(tmp_path, monkeypatch, text)).splitlines()
    assert time.process_time() - began < 5  # each name beside each would take half a minute
    assert lines[0].startswith(
        "x.yaml:16: partition.shards: clients phone-1, laptops-1, laptops-2, laptops-3, laptops-4"
    )
    assert lines[0].endswith(" and 2,996 more have no shard")
    assert lines[1].startswith("x.yaml:16: partition.shards.x0: no client has this name")
    assert len(lines) == 6 and lines[-1].endswith(" (and 2,995 more shards have no client)")


def test_a_good_config_knows_where_its_keys_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(GOOD, encoding="utf-8")
    loaded = load_config("x.yaml", ["training.rounds=5", "server={rank: 2}"])
    assert loaded.config.training.rounds == 5 and loaded.config.server.rank == 2
    assert loaded.origins["clients.phone-1.rank"] == "x.yaml:12"
    assert loaded.origins["training.rounds"] == loaded.origins["server.rank"] == "override"
    assert "training.local_steps" not in loaded.origins
    assert loaded.where("clients.phone-1.rank") == "x.yaml:12"
    assert loaded.where("clients.phone-1.count") == "x.yaml:10"
    assert loaded.where("clients.phone-1.rank.0") == "x.yaml:12"
    assert loaded.where("training.local_steps") == "x.yaml:14"
    assert loaded.where("training.rounds") == loaded.where("server") == "command line"
    assert loaded.where("partition.alpha") == "x.yaml"
    assert [spec.name for spec in loaded.config.expanded_clients()] == ["phone-1", "laptops-1", "laptops-2"]


def test_locating_fills_the_place_of_a_later_error(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(GOOD, encoding="utf-8")
    loaded = load_config("x.yaml", ["model.split_layer=9"])
    for error, text in [
        (ConfigError("does not fit", key="clients.phone-1.rank"), "x.yaml:12: clients.phone-1.rank: does not fit"),
        (ConfigError("too deep", key="model.split_layer"), "command line: model.split_layer: too deep"),
        (ConfigError("bad", key="a", where="data.csv:3"), "data.csv:3: a: bad"),
        (ConfigError("no key"), "no key"),
        (ConfigError("few", key="partition.min_examples"), "x.yaml: partition.min_examples: few"),
        (
            ConfigError("few", key="partition.min_examples", beside="task_groups.questions"),
            "x.yaml:6: partition.min_examples: few",
        ),
        (
            ConfigError("few", key="training.rounds", beside="task_groups.questions"),
            "x.yaml:15: training.rounds: few",
        ),
        (
            ConfigError("bad", key="name", others=[ConfigError("worse", key="lora.rank"), ConfigError("no key")]),
            "x.yaml:1: name: bad\nx.yaml:4: lora.rank: worse\nno key",
        ),
    ]:
        with pytest.raises(ConfigError) as caught, locating(loaded):
            raise error
        assert str(caught.value) == text


def test_names_that_two_entries_give_are_found_without_making_any():
    draw, found = random.Random(0), 0
    for _ in range(300):
        names = draw.sample(["a", "a-1", "a-2", "a-02", "a-12", "a-1-1", "b-1", "b", "-1", "a-"], 4)
        clients = {name: SimpleNamespace(count=draw.choice([1, 1, 2, 12])) for name in names}
        owner, wanted = {}, []
        for entry, client in clients.items():
            for name in [entry] if client.count == 1 else [f"{entry}-{i}" for i in range(1, client.count + 1)]:
                if (first := owner.setdefault(name, entry)) != entry:
                    wanted.append(
                        (entry, f"a client named {name} also comes from clients.{first}; rename one of the two")
                    )
        problems = [(problem.path[1], problem.message) for problem in checks._clients(SimpleNamespace(clients=clients))]
        assert sorted(problems) == sorted(wanted)
        found += len(wanted)
    assert found > 50
