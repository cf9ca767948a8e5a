"""What is recorded of all clients of a kind at once is what is recorded of them one by one."""

import json
import random
from dataclasses import replace

import pytest
import yaml
from support.toy_runs import TASKS, toy_config, write_data

from atlas_cli.cli import main
from atlas_cli.config import client_names
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.label_columns import label_columns, labels_of
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.hashing import sha256_tensors
from atlas_cli.reports.page.clients import every_client, skew
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.result import Result
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.kinds import each_client
from atlas_cli.runs.record_files import RecordFiles

ROUNDS = 3
TIMES = ("seconds", "samples_per_second")
FILES = ("metrics.jsonl", "clients.jsonl", "messages.jsonl")
CASES = {
    "merged": {},
    "moments kept": {"aggregation": {"method": "fedsa"}},
    "changed base": {"aggregation": {"method": "flora"}},
    "lost": {"faults": {"drop": 0.4, "crash_at": {"a-2": {"round": 3, "step": 1}}}, "training": {"cohort": 1.0}},
    "clusters": {"clustering": {"by": "random", "k": 2, "every": 2}},
    "coded": {"wire": {"adapters": {"codec": "int4", "feedback": True}, "deliveries": {"codec": "int8"}}},
    "headers of one entry": {"clients": {"d": {"wire": {"header": "compact"}}}},  # else as a
    "local tests": {"partition": {"local_test": 0.3}},
    "epsilon": {"privacy": {"updates": {"clip": 0.5, "noise_multiplier": 1.0, "where": "client"}}},
    "heads on clients": {"training": {"labels": "client"}},
    "nothing merged": {"aggregation": {"method": "none"}},
}


@pytest.fixture
def recorded(make_config, tmp_path, monkeypatch, toy_csv):
    """A run of ten clients of four entries and two task groups, with lines of kinds or one by one."""
    made = []

    def run(changes, most_named=5, memory=None, began_with=None, done=None):
        monkeypatch.setattr(client_names, "MOST_NAMED", most_named)
        entries = {"a": ("g", 4), "b": ("g", 2), "c": ("h", 1), "d": ("g", 3)}
        clients = {n: {"task_group": g, "rank": 2 if n in "ad" else 3, "count": k} for n, (g, k) in entries.items()}
        clients = {n: {**client, **changes.get("clients", {}).get(n, {})} for n, client in clients.items()}
        training = {"rounds": ROUNDS, "local_steps": 2, "batch_size": 2, "cohort": 0.4, **changes.get("training", {})}
        groups = {n: {"task": "sequence-classification", "data": {"files": toy_csv}} for n in "gh"}
        both = {"partition": {"local_test": 0.0}, **changes, "clients": clients, "training": training}
        both |= {"task_groups": groups, "threads": 1}
        config = make_config(**both, engine={"offload": memory}, output={"dir": str(tmp_path)})
        federation, saved = build(config), []
        made.append(federation)
        state = RunState(federation)
        if began_with is not None:
            state.restore(*began_with)
        progress = PlainProgress(Terminal(quiet=True))
        progress.start(ROUNDS, 2, federation.group_names)
        files = RecordFiles(RunDirectory.create(tmp_path, "kinds", 0))
        train(federation, Recorder(federation, files, progress), lambda number: saved.append(state.capture()), done)
        return files.run, saved

    yield run
    for federation in made:
        federation.close()


def raw(run, name):
    lines = map(json.loads, (run.path / name).read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def by_client(run, name):
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in run.read_lines(name)]
    return sorted(lines, key=lambda each: [str(each.get(key)) for key in ("round", "client", "kind", "direction")])


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, "1 KiB"])
@pytest.mark.parametrize("case", CASES)
def test_lines_of_kinds_say_what_lines_of_clients_do(case, memory, recorded):
    (folded, _), (each, _) = recorded(CASES[case], memory=memory), recorded(CASES[case], most_named=10, memory=memory)
    assert by_client(folded, "clients.jsonl") == by_client(each, "clients.jsonl")
    assert by_client(folded, "messages.jsonl") == by_client(each, "messages.jsonl")
    assert raw(folded, "metrics.jsonl") == raw(each, "metrics.jsonl")
    assert not (each.path / "labels.jsonl").exists()
    for line in folded.read_lines("metrics.jsonl"):
        mine = [x for x in folded.read_lines("clients.jsonl") if x["round"] == line["round"]]
        mine = {x["client"]: x for x in mine if x["task_group"] == line["task_group"]}
        for way in ("up", "down"):
            sent = [x for x in folded.read_lines("messages.jsonl") if x["round"] == line["round"]]
            counted = sum(x["bytes"] for x in sent if x["direction"] == way and x["client"] in mine)
            assert line[f"bytes_{way}"] == counted == sum(x[f"bytes_{way}"] for x in mine.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_lines_are_the_same_with_offloaded_clients(case, recorded):
    (here, _), (away, _) = recorded(CASES[case]), recorded(CASES[case], memory="1 KiB")
    for name in (*FILES, "labels.jsonl"):
        assert raw(here, name) == raw(away, name)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, "1 KiB"])
@pytest.mark.parametrize("case", ["lost", "changed base", "clusters"])
def test_a_resumed_run_has_the_same_lines(case, memory, recorded):
    whole, saved = recorded(CASES[case], memory=memory)
    rest, _ = recorded(CASES[case], memory=memory, began_with=saved[1], done=1)
    for name in FILES:
        assert raw(rest, name) == [line for line in raw(whole, name) if line["round"] > 1]


def drawn(seed):
    """Changes of a config that lead clients apart and together again in many ways."""
    draw = random.Random(seed)
    methods = ["delta-svd", "delta-svd", "fedsa", "flora", "fedex", "none", "rolora", "zero-pad", "hetlora"]
    method = draw.choice(methods)
    changes = {"aggregation": {"method": method}, "clients": {}}
    changes["training"] = {"cohort": draw.choice([0.2, 0.4, 0.7]), "labels": draw.choice(["server", "client"])}
    for name in draw.sample("abcd", 2):
        more = [{"weight": 1.5}, {"wire": {"header": "compact"}}, {"wire": {"adapters": {"codec": "int8"}}}]
        changes["clients"][name] = draw.choice(more) if method != "none" else {"weight": 1.5}
    if draw.random() < 0.4 and method not in ("flora", "fedex"):
        changes["clustering"] = {"by": "random", "k": 2, "every": 2}
    if draw.random() < 0.4:
        changes["faults"] = {"drop": 0.3}
    if draw.random() < 0.4 and method != "none":
        changes["wire"] = {"adapters": {"codec": "int4"}, "deliveries": {"codec": "int8"}}
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_clients_that_share_where_they_stand_are_recorded_and_saved_as_clients_of_their_own(seed, recorded):
    (own, kept), (shared, saved) = recorded(drawn(seed)), recorded(drawn(seed), memory="1 KiB")
    each, _ = recorded(drawn(seed), most_named=10, memory="1 KiB")
    for name in (*FILES, "labels.jsonl"):
        assert raw(own, name) == raw(shared, name)
    for name in ("clients.jsonl", "messages.jsonl"):
        assert by_client(each, name) == by_client(shared, name)
    assert [sha256_tensors(tensors) for tensors, _ in saved] == [sha256_tensors(tensors) for tensors, _ in kept]
    assert [values for _, values in saved] == [values for _, values in kept]
    rest, last = recorded(drawn(seed), memory="1 KiB", began_with=saved[1], done=1)
    assert raw(rest, "clients.jsonl") == [line for line in raw(shared, "clients.jsonl") if line["round"] > 1]
    assert [values for _, values in last] == [values for _, values in saved[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, "1 KiB"])
def test_the_first_and_the_last_round_have_a_line_for_each_kind_and_for_each_that_took_part(recorded, memory):
    run, _ = recorded({}, memory=memory)
    clients, messages = raw(run, "clients.jsonl"), raw(run, "messages.jsonl")
    first = [line for line in clients if line["round"] == 0]
    assert [(line.get("names"), line.get("count"), line.get("client")) for line in first] == [
        ([["a", 1, 4], ["d", 1, 3]], 7, None),  # of equal rank
        ([["b", 1, 2]], 2, None),
        (None, None, "c"),
    ]
    took_part = {c for line in run.read_lines("metrics.jsonl") if line["round"] == ROUNDS for c in line["participants"]}
    last = [line for line in clients if line["round"] == ROUNDS]
    assert {line["client"] for line in last if "client" in line and line["participated"]} == took_part
    assert sum(line.get("count", 1) for line in last) == 10 and len(last) < 10
    assert all(not line["participated"] for line in last if "names" in line)
    # rank 3 of b and c is sent in as many bytes in their two groups
    kinds = [(line["kind"], line.get("count", 1)) for line in messages if line["round"] == 0]
    assert sorted(kinds) == [(kind, n) for kind in ("adapters", "base-weights") for n in (3, 7)]
    middle = [line for line in clients if 0 < line["round"] < ROUNDS]
    assert middle and all("client" in line for line in middle)


@pytest.mark.slow
def test_reports_and_results_are_made_of_lines_of_kinds(model_folder, tmp_path, monkeypatch, capsys):
    write_data(tmp_path)
    found = {}
    for most_named in (2, 5):
        monkeypatch.setattr(client_names, "MOST_NAMED", most_named)
        changes = {"training": {"cohort": 0.6}, "partition": {"local_test": 0.0}, "clients": {"b": {"count": 4}}}
        config = toy_config(model_folder, tmp_path, tmp_path / str(most_named), **changes)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        assert main(["train", str(path)]) == 0
        (run,) = (tmp_path / str(most_named)).glob("*_toy_*")
        assert (run / "labels.jsonl").exists() == (most_named == 2)
        assert main(["train", "--resume", str(run), "training.rounds=3"]) == 0
        assert main(["report", str(run)]) == 0
        rows = RunRecords.of_run(RunDirectory(run))
        tables = {row.partition("</tr>")[0] for row in every_client(rows).split("<tr>")[2:]}
        result = sorted(map(str, Result(run).clients))
        capsys.readouterr()
        assert main(["memory-report", str(run), "--json"]) == 0  # of three, so that one is not the first of its kind
        memory = {**json.loads(capsys.readouterr().out), "process_rss_peak": None}
        found[most_named] = tables, skew(rows), result, [each.clients for each in rows.summaries], memory
    assert found[2] == found[5] and found[2][3] == [5]


@pytest.mark.parametrize("local_test", [0.0, 0.3])
@pytest.mark.parametrize("task", TASKS)
def test_columns_have_the_labels_of_each_client(task, local_test, model_folder, tmp_path):
    write_data(tmp_path)
    changes = {"clients": {"b": {"count": 5}}, "partition": {"local_test": local_test}}
    federation = build(ExperimentConfig.model_validate(toy_config(model_folder, tmp_path, tmp_path, task, **changes)))
    whole = federation.data["g"]
    assert (whole.undivided is whole.train) == (local_test == 0)
    fewer = {client: features[:1] for client, features in whole.train.items()}
    for group in (whole, replace(whole, train=fewer)):  # as what replaces features does
        federation.data["g"] = group
        require_columns(federation, task)


def require_columns(federation, task):
    group, lines = federation.data["g"], list(label_columns(federation))
    expected = {client: labels_of(group, client) for client in federation.clients}
    assert len(lines) == group.task.has_classes == any(expected.values())
    all_of_round_0 = [{"round": 0, "client": client} for client in federation.clients]
    read = {line["client"]: line.get("labels", {}) for line in each_client(all_of_round_0, lines)}
    assert [(name, list(counts.items())) for name, counts in read.items()] == [
        (name, list(counts.items())) for name, counts in expected.items()
    ]
    assert all(sum(counts.values()) >= len({f["row"] for f in group.train[name]}) for name, counts in read.items()) or (
        not group.task.has_classes or task in ("multi-label", "token-classification")
    )
