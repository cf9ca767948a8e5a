"""``atlas devices`` and ``atlas split-point`` as typed: what they print, exit codes, and one-line errors."""

import gc
import json

import pytest
import yaml
from support.slow import slow

from atlas_cli.cli import main
from atlas_cli.cli._imports import without_collecting
from atlas_cli.config.load import load_config
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.planning.cuts.table import config_of
from atlas_cli.planning.devices import devices as devices_module
from atlas_cli.planning.devices.devices import BUILT_IN, device_of
from atlas_cli.planning.memory_of_plan import Shape, predict
from atlas_cli.planning.plan import make_plan


@pytest.fixture
def run(capsys, monkeypatch):
    """``run("split-point", "gpt2", ...)``: (exit code, output, errors) at 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args):
        code = main([*args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
def test_the_default_length_is_what_a_short_model_can_take(run, model_folder):
    code, out, err = run("split-point", model_folder("gpt2"))
    assert code == 0 and "8 x 64 tokens" in " ".join(out.split())
    assert err == "note: examples of 64 tokens, as many as the model has positions (--max-length)\n"
    code, _, err = run("split-point", model_folder("gpt2"), "--max-length", "65")
    assert code == 2 and "65 tokens are more than the model's 64 positions" in err


def test_devices_lists_all_with_their_source(run):
    code, out, _ = run("devices")
    assert code == 0
    for name, device in BUILT_IN.items():
        assert name in out and device.source in out
    assert json.loads(run("devices", "--json")[1])[0]["memory"] == 2**31


def test_this_machine_prints_a_profile_to_paste(run, monkeypatch):
    monkeypatch.setattr(devices_module, "_matrix_product", lambda size: 0.01)
    code, out, _ = run("devices", "--this-machine", "--threads", "1")
    assert code == 0 and "torch threads: 1" in out
    profile = yaml.safe_load(out)["devices"]["this-machine"]
    device = device_of("this-machine", profile)
    assert device.compute == float(f"{2 * 1024**3 / 0.01:.3g}")
    assert device.memory > 0
    record = json.loads(run("devices", "--this-machine", "--json")[1])
    assert record["name"] == "this-machine" and record["uplink"] is None


def test_threads_without_a_measurement(run):
    code, _, err = run("devices", "--threads", "2")
    assert code == 2 and err == "error: --threads: goes with --this-machine\n"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layer"), [("gpt2", "6 of 12"), ("bert", "6 of 12")])
def test_the_default_is_labelled(model, layer, run):
    code, out, _ = run("split-point", model)
    assert code == 0
    assert f"split layer {layer} (default): the middle of the model" in out
    assert "fits" not in out.splitlines()[2] and "link" not in out
    assert "> 6" in out


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("gpt2", []),
        ("gpt2", ["--device", "phone-2gib"]),
        *slow(("llama-7b", ["--device", "phone-2gib", "--batch-size", "64"])),
    ],
)
def test_the_table_fits_100_columns(model, arguments, run):
    code, out, _ = run("split-point", model, *arguments)
    assert code in (0, 5)
    assert "…" not in out
    shown = [line for line in out.splitlines() if not line.startswith("split layer")]  # the reason flows
    assert max(len(line.rstrip()) for line in shown) <= 100
    rows = [line for line in out.splitlines() if line.strip("> ").split(" ")[0].isdigit()]
    assert len(rows) == {"gpt2": 12, "llama-7b": 32}[model]


def test_a_narrow_terminal_leaves_the_parts_of_memory_out(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("split-point", "gpt2", "--device", "phone-2gib")
    table, _, rest = out.partition("left out for the width of 80: ")
    assert rest.startswith("weights, trained, saved, other;")
    assert "…" not in table and "peak" in table and "weights" not in table
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80


@pytest.mark.slow
def test_a_device_decides(run):
    code, out, _ = run("split-point", "llama-7b", "--device", "laptop-8gib")
    assert code == 0
    assert "planned for weights in bfloat16, as large as the published float16; see --dtype" in " ".join(out.split())
    assert "split layer 15 of 32: the deepest that fits laptop-8gib (8,192 MiB); layer 16 needs" in out
    assert "privacy asks for depth" in out and "time is linear in the split layer" in out
    assert "workstation-gpu-16gib (assumed; see --server)" in out


def test_json_has_everything(run):
    code, out, _ = run("split-point", "gpt2", "--device", "phone-2gib", "--memory", "400 MiB", "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["split_layer"], record["feasible"], record["default"]) == (3, [1, 3], False)
    assert record["device"]["memory"] == 400 * 2**20 and record["device"]["uplink"] == 10e6
    assert record["server"]["assumed"] is True
    assert record["setting"]["dtype"] == record["published_dtype"] == "float32"
    assert [row["fits"] for row in record["layers"]] == [True] * 3 + [False] * 9
    row = record["layers"][2]
    parts = {k: v for k, v in row["client_memory"].items() if k != "peak"}
    assert row["client_memory"]["peak"] == sum(parts.values())
    assert row["seconds"]["total"] == pytest.approx(sum(v for k, v in row["seconds"].items() if k != "total"))
    assert row["bytes_up"] > 8 * 128 * 768 * 4 and row["client_flops"] > 0 and row["server_flops"] > 0
    assert row["leakage"] is None and row["client_parameters"] > 60e6


@pytest.mark.slow
def test_a_table_of_small_weights(run):
    options = ("--memory", "150 MiB", "--quantization", "nf4", "--embedding", "rows", "--rows", "5000")
    code, out, _ = run("split-point", "gpt2", *options)
    assert code == 0 and "float32, nf4, embeddings by the row" in " ".join(out.split())
    assert "token embedding: 5,000 rows" in out and "the linear layers of the client's blocks" in out
    layer = int(out.split("split layer ")[1].split(" of 12")[0])
    last = out.splitlines()[-1]
    assert last.startswith("next: with --checkpointing layer ") and last.endswith(" of 12 fits")
    deeper = int(last.split()[4])
    assert deeper > layer
    found = json.loads(run("split-point", "gpt2", *options, "--checkpointing", "--json")[1])
    assert found["split_layer"] == deeper
    assert (found["setting"]["quantization"], found["setting"]["rows"]) == ("nf4", 5000)


def test_rows_are_for_embeddings_by_the_row(run):
    code, _, err = run("split-point", "gpt2", "--rows", "5000")
    assert code == 2 and err.startswith("error: --rows: rows are counted for --embedding rows")
    code, _, err = run("split-point", "gpt2", "--embedding", "rows", "--rows", "50258")
    assert code == 2 and err.startswith("error: --rows: 50,258 is above the 50,257 rows of the token embedding")


@pytest.mark.slow
def test_nothing_fits(run):
    code, out, err = run("split-point", "gpt2", "--memory", "230 MiB")
    assert code == 5
    assert err.count("\n") == 1
    assert err.startswith("error: no split layer of gpt2 fits a client: layer 1 needs 238 MiB and there are 230 MiB;")
    assert "--batch-size 6 fits" in err and "--dtype bfloat16 fits" in err
    assert "no" in out  # the table is shown all the same
    code, out, err = run("split-point", "gpt2", "--memory", "230 MiB", "--json")
    record = json.loads(out)
    assert code == 5 and record["split_layer"] is None and len(record["remedies"]) >= 2
    assert run("split-point", "gpt2", "--memory", "230 MiB", "--batch-size", "6")[0] == 0
    assert run("split-point", "gpt2", "--memory", "230 MiB", "--batch-size", "7")[0] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--memory", "2"], 2, "--memory: '2' has no unit; write e.g. 2 GiB"),
        (["--memory", "-2 GiB"], 2, "--memory: '-2 GiB' must be above zero"),
        (["--memory", "0 GiB"], 2, "must be above zero"),
        (["--memory", "2 gib"], 2, "did you mean GiB?"),
        (["--device", "phone-2gb"], 2, "did you mean phone-2gib?"),
        (["--memory", "2 GiB", "--server", "nas"], 2, "no device is named 'nas'"),
        (["--server", "laptop-8gib"], 2, "--server: a server serves a client"),
        (["--rank", "4000"], 2, "--rank: rank 4000 is above 768"),
        (["--targets", "c_attm"], 2, "--targets: no linear layer of a block is named 'c_attm'"),
        (["--targets", ","], 2, "--targets: names no layer"),
        (["--max-length", "4096"], 2, "--max-length: 4096 tokens are more than the model's 1024 positions"),
    ],
)
def test_bad_input_is_one_line(arguments, code, words, run):
    got, _, err = run("split-point", "gpt2", *arguments)
    assert got == code
    assert words in err and err.count("\n") == 1 and err.startswith("error: ")


@pytest.mark.parametrize(
    "arguments", [["--batch-size", "0"], ["--rank", "-1"], ["--max-length", "1"], ["--dtype", "int8"]]
)
def test_numbers_out_of_range_are_usage_errors(arguments, run):
    assert run("split-point", "gpt2", *arguments)[0] == 2


def test_a_model_that_cannot_be_found_offline(run, monkeypatch, tmp_path):
    monkeypatch.setattr("atlas_cli.models.files.resolve.hub_reachable", lambda: False)
    code, _, err = run("split-point", "no-such/model")
    assert (
        code == 3
        and err.startswith("error: MODEL: 'no-such/model' was not found (the hub")
        and "[" not in err
        and err.count("\n") == 1
    )
    code, _, err = run("split-point", str(tmp_path / "nowhere"))
    assert code == 3 and "does not exist" in err


def test_a_folder(run, model_folder):
    code, out, _ = run("split-point", model_folder("qwen3"), "--max-length", "32", "--json")
    assert code == 0
    assert json.loads(out)["split_layer"] == 2


@pytest.mark.slow
def test_a_client_that_is_too_large_trains_with_checkpointing(config_file, run):
    phone = {"a": {"device": "phone", "split_layer": 3}}
    training = {"rounds": 1, "local_steps": 1, "batch_size": 8}
    path = config_file(family="llama", clients=phone, training=training, devices={"phone": {"memory": "1 GiB"}})
    checkpointing, shape = "clients.a.checkpointing=true", Shape(8, 32, True)
    peaks = []
    for overrides in ([], [checkpointing]):
        config = load_config(path, overrides).config
        plan = make_plan(config)
        # the same figure decides whether it fits and is in the report, and a step measures it
        peak = predict(plan, {"g": ["pos", "neg"]}).clients["a"].peak
        assert plan_ranks(config).clients[0].memory.peak == peak
        assert peak == pytest.approx(take_steps(plan, "a", shape, ["pos", "neg"]).peak, rel=0.05)
        peaks.append(peak)
    assert peaks[1] < 0.8 * peaks[0]
    memory = f"devices.phone.memory={peaks[1]} B"
    code, _, err = run("train", str(path), memory)
    assert code == 2 and "client a needs" in err and "or set checkpointing: true (needs" in err
    assert run("train", str(path), memory, checkpointing)[0] == 0
    assert run("train", str(path), f"devices.phone.memory={peaks[1] - 1} B", checkpointing)[0] == 2


@pytest.mark.slow
def test_a_client_that_is_too_large_trains_in_bfloat16(config_file, run):
    # deep and of few tokens, so that weights are most of what it holds
    phone = {"b": {"device": "phone", "split_layer": 3}}
    training = {"rounds": 1, "local_steps": 1, "batch_size": 1, "max_length": 4}
    path = config_file(clients=phone, training=training, devices={"phone": {"memory": "1 GiB"}})
    narrow = "clients.b.dtype=bfloat16"
    peak = plan_ranks(load_config(path, [narrow]).config).clients[1].memory.peak
    code, _, err = run("train", str(path), f"devices.phone.memory={peak} B")
    assert code == 2 and "client b-1 needs" in err and ":clients.b.device" in err.replace(" ", "")
    assert "model.split_layer, or set quantization: nf4 (needs 0." in err and " or dtype: bfloat16 (needs 0." in err
    assert run("train", str(path), f"devices.phone.memory={peak} B", narrow)[0] == 0
    _, _, err = run("train", str(path), f"devices.phone.memory={peak - 1} B")
    assert "or dtype: bfloat16 (" not in err and "quantization: nf4 (needs" in err
    _, _, err = run("train", str(path), f"devices.phone.memory={peak - 1} B", narrow)
    assert "client b-1 needs" in err and "bfloat16" not in err


@pytest.mark.slow
def test_devices_of_a_config(run, config_file):
    path = config_file(devices={"slow": {"memory": "400 MiB"}, "host": {"memory": "64 GiB", "compute": "1 TFLOP/s"}})
    config = ["split-point", "gpt2", "--config", str(path)]
    code, out, _ = run(*config, "--device", "slow", "--server", "host", "--json")
    record = json.loads(out)
    assert code == 0 and record["split_layer"] == 3
    assert (record["device"]["memory"], record["server"]["name"]) == (400 * 2**20, "host")
    assert run(*config, "--device", "phone-2gib")[0] == 0  # built-in ones are there as well
    code, _, err = run(*config, "--device", "slov")
    assert code == 2 and err.count("\n") == 1
    assert "config.yaml: --device: no device is named 'slov'; did you mean slow?" in err
    code, _, err = run(*config)
    assert code == 2 and err == "error: --config: its devices are for --device and --server; give one of them\n"
    code, _, err = run("split-point", "gpt2", "--config", "none.yaml", "--device", "slow")
    assert code == 2 and err.count("\n") == 1 and "none.yaml" in err


@pytest.mark.slow
def test_leakage_of_a_file(run, tmp_path):
    path = tmp_path / "leak.json"
    shares = {str(layer): round(1 - 0.05 * layer, 2) for layer in range(1, 13)}
    path.write_text(json.dumps({"layer": shares, "attack": "nearest embedding", "source": "a trial"}), encoding="utf-8")
    known = ["split-point", "gpt2", "--device", "phone-2gib", "--memory", "500 MiB", "--leakage", str(path)]
    code, out, _ = run(*known, "--max-leakage", "0.82")
    assert code == 0 and "leakage: nearest embedding (a trial)" in out and "a split alone is not private" in out
    assert "below layer 4 the leakage is above 0.82" in out
    rows = [line.split() for line in out.splitlines() if line.strip("> ").split(" ")[0].isdigit()]
    assert [(row[-2], row[-1]) for row in rows[2:4]] == [("85%", "leaks"), ("80%", "yes")]
    assert max(len(line.rstrip()) for line in out.splitlines() if not line.startswith("split layer")) <= 100
    record = json.loads(run(*known, "--max-leakage", "0.82", "--json")[1])
    assert record["feasible"][0] == 4 and record["max_leakage"] == 0.82
    assert [row["leakage"] for row in record["layers"]] == list(shares.values())
    assert record["layers"][0]["against"] == ["leakage"] and record["layers"][-1]["against"] == ["memory"]
    code, _, err = run(*known, "--max-leakage", "0.3")
    assert code == 5 and err.count("\n") == 1 and "every split layer of gpt2 leaks more than 0.3" in err
    deepest = max(row["layer"] for row in record["layers"] if row["fits"])
    assert f"--max-leakage {shares[str(deepest)]} allows layer {deepest}" in err
    code, _, err = run("split-point", "gpt2", "--max-leakage", "0.5")
    assert code == 2 and "a leakage file, --leakage FILE" in err and err.count("\n") == 1
    assert run("split-point", "gpt2", "--leakage", str(tmp_path / "none.json"))[0] == 3


@pytest.mark.slow
def test_a_wide_table_with_leakage(run, tmp_path):
    path = tmp_path / "leak.json"
    path.write_text(json.dumps({"layer": {"1": 0.999}, "attack": "a", "source": "b"}), encoding="utf-8")
    on_laptop = ["llama-3-70b", "--device", "laptop-8gib", "--max-length", "512"]
    _, out, _ = run("split-point", *on_laptop, "--leakage", str(path))
    shown = [line for line in out.splitlines() if not line.startswith("split layer")]
    assert "…" not in out and "99.9%" in out and max(len(line.rstrip()) for line in shown) <= 100
    assert sum(line.strip("> ").split(" ")[0].isdigit() for line in out.splitlines()) == 80


def test_imports_collect_nothing_and_an_error_leaves_collecting_on():
    with pytest.raises(ImportError), without_collecting():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > 0


@pytest.mark.slow
def test_a_codec_is_in_all_figures_of_a_split_layer(run, model_folder):
    """``delta`` keeps what was sent and received last of each text, at both ends."""
    plain, coded = (
        json.loads(run("split-point", model_folder("gpt2"), "--server", "workstation-gpu-16gib", *own, "--json")[1])
        for own in (("--memory", "1 GiB"), ("--memory", "1 GiB", "--codec", "delta", "--text-tokens", "1000"))
    )
    kept = 2 * 4 * 1000 * config_of(model_folder("gpt2")).hidden_size
    for one, other in zip(plain["layers"], coded["layers"], strict=True):
        for party in ("client_memory", "server_memory"):
            assert other[party]["cut_buffers"] - one[party]["cut_buffers"] == kept
        assert other["bytes_up"] < one["bytes_up"] / 3 and other["bytes_down"] < one["bytes_down"] / 3
        assert other["client_flops"] > one["client_flops"] and other["server_flops"] > one["server_flops"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--codec", "delta"], "--codec: delta keeps what was sent last of each text"),
        (["--codec", "int8", "--text-tokens", "9"], "--text-tokens: --codec int8 keeps nothing of texts"),
        (["--codec", "int"], "--codec: 'int' cannot be chosen"),
        (["--codec", "low-rank", "--learns", "frozen"], "--codec: low-rank does not encode each token alone"),
    ],
)
def test_a_codec_that_cannot_be_planned(options, error, run, model_folder):
    code, out, err = run("split-point", model_folder("gpt2"), *options)
    assert (code, out) == (2, "") and error in err
