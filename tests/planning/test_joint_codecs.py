"""Codecs in a joint plan: a candidate costs what its config does, in what it sends and in what codecs keep of texts."""

import pytest
from support.toy_runs import toy_config, write_data

from atlas_cli.config.dump import dump_config
from atlas_cli.config.load import config_of_text
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.experiment.allocation.smaller_client import smaller_client
from atlas_cli.planning.client_rows import read_rows
from atlas_cli.planning.joint.candidate import Candidate
from atlas_cli.planning.joint.prepare import prepare
from atlas_cli.planning.joint.space import Ranges
from atlas_cli.planning.joint.written import written
from atlas_cli.planning.memory_assumptions import read_texts
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.units import format_bytes_mib

KEPT = {"activations": {"codec": "delta"}, "gradients": {"codec": "int4", "feedback": True}}


@pytest.fixture
def config_of(model_folder, tmp_path):
    """Client a is as the others, but sends activations as they are, whatever they do."""
    write_data(tmp_path)

    def make(wire=None):
        config = toy_config(model_folder, tmp_path, tmp_path, server={"rank": 2}, training={"max_length": 8})
        config["wire"] = wire or {}
        config["clients"]["a"] |= {"rank": 2, "wire": {"activations": {"codec": "none"}}}
        return ExperimentConfig.model_validate(config)

    return make


def plans(config, *codecs, **clients):
    """By codec the candidates with their figures, and the notes."""
    ranges = Ranges(cuts=(2,), codecs=codecs, one_cut=True, clients=clients)
    search, notes = prepare(config, ranges, "client", None)
    first = [Candidate(each, (ranges.options(each)[0],) * len(search.kinds)) for each in search.shared]
    return {
        each.shared.codec: (search.figures(each), dict(each.settings(config, search.kinds))) for each in first
    }, notes


def predicted(config):
    """The largest peak of a client, and the server's, as memory-report has them."""
    plan = make_plan(config)
    said = predict(plan, {"g": ["pos", "neg"]}, texts=read_texts(plan)[0])
    return max(memory.peak for memory in said.clients.values()), said.server.peak


@pytest.mark.slow
def test_all_other_keys_of_wire_stay_with_another_codec(config_of):
    rest = {"header": "compact", "adapters": {"codec": "int8"}, "deliveries": {"codec": "int8"}}
    found, _ = plans(config_of(rest), "none", "int8", "int4")
    assert len({figures.bytes_up for figures, _ in found.values()}) == 3
    for codec, (figures, _) in found.items():
        both = {"activations": {"codec": codec}, "gradients": {"codec": codec}}
        alone, _ = plans(config_of({**rest, **both}))
        assert figures.costs()[:-1] == alone[codec][0].costs()[:-1]


def test_a_client_s_own_codec_is_counted_apart(config_of):
    """Where the file has none for all, too: a, like the others but for it, does not cost what they do."""
    config = config_of()
    alone = config_of({"activations": {"codec": "int8"}, "gradients": {"codec": "int8"}})
    assert plans(config, "int8")[0]["int8"][0].bytes_up == plans(alone)[0]["int8"][0].bytes_up


@pytest.mark.slow
def test_what_codecs_keep_of_texts_is_in_the_memory_of_both_ends(config_of):
    plain, kept = predicted(config_of()), predicted(config_of(KEPT))
    assert kept[0] > plain[0] and kept[1] > plain[1]
    found, notes = plans(config_of(KEPT), "none", "delta")
    assert {codec: (figures.memory, figures.server) for codec, (figures, _) in found.items()} == {
        "none": plain,
        None: kept,
        "delta": predicted(config_of({kind: {"codec": "delta"} for kind in KEPT})),
    }
    assert any("keep of all training texts" in note for note in notes)


def test_what_the_server_keeps_of_deliveries_is_in_its_memory(config_of):
    config = config_of({"deliveries": {"codec": "int8"}})
    assert predicted(config)[1] > predicted(config_of())[1]
    assert plans(config, "none")[0]["none"][0].server == predicted(config)[1]


def test_what_the_file_says_of_codecs_stays_a_candidate(config_of):
    """Of the same codec options and feedback; of two that differ, both."""
    wire = {
        "activations": {"codec": "int4", "options": {"block": 32}},
        "gradients": {"codec": "int4", "feedback": True},
    }
    found, _ = plans(config_of(wire), "int4", "int8")
    assert list(found) == ["int4", "int8"] and not found["int4"][1] and found["int4"][0].changes == 0
    assert found["int8"][1] == {("wire", kind): {"codec": "int8"} for kind in wire} and found["int8"][0].changes == 1
    found, _ = plans(config_of(KEPT), "int4")
    assert {codec: (figures.changes, settings) for codec, (figures, settings) in found.items()} == {
        None: (0, {}),
        "int4": (1, {("wire", "activations"): {"codec": "int4"}}),
    }


def test_comments_stay_where_a_codec_is_written(config_of, tmp_path):
    config = config_of()
    source = f"# mine\n{dump_config(config)}"
    config = config_of_text(source, tmp_path / "old.yaml").config
    text, kept = written(source, config, plans(config, "int4")[0]["int4"][1], tmp_path / "new.yaml")
    assert kept and text.startswith("# mine\n")
    assert config_of_text(text, tmp_path / "new.yaml").config.wire.gradients == CodecConfig(codec="int4")


@pytest.mark.parametrize("own", ["none", "delta"])
def test_no_frozen_client_has_a_codec_that_looks_beyond_a_token(config_of, own):
    config = config_of({kind: {"codec": own} for kind in KEPT})
    ranges = Ranges(cuts=(2,), codecs=("none", "delta"), clients={"learns": ("backprop", "frozen")})
    search, _ = prepare(config, ranges, "client", None)
    alone = {
        shared.codec: [{dict(option)["learns"] for option in search._options(kind, shared)} for kind in search.kinds]
        for shared in search.shared
    }
    assert alone == {"none": [{"backprop", "frozen"}] * 2, "delta": [{"backprop", "frozen"}, {"backprop"}]}
    with pytest.raises(ConfigError, match="delta does not encode each token alone"):
        plans(config, "delta", learns=("frozen",))


@pytest.mark.slow
def test_ranks_and_remedies_count_what_codecs_keep_of_texts(config_of):
    config = config_of(KEPT)
    said = predict(plan := make_plan(config), {"g": ["pos", "neg"]}, texts=read_texts(plan)[0]).clients
    assert {each.name: each.memory.peak for each in plan_ranks(config).clients}["a"] == said["a"].peak
    assert plan_ranks(config).clients[-1].memory.peak == max(memory.peak for memory in said.values())
    spec = config.expanded_clients()[-1]
    (way, *_) = smaller_client(config, spec, said[spec.name].peak - 1).split(" or ")
    by_row = config.model_copy(
        update={"clients": {**config.clients, "b": config.clients["b"].model_copy(update={"embedding": "rows"})}}
    )
    plan = make_plan(by_row)
    counted = read_rows(by_row, plan.hf_config)[0], read_texts(plan)[0]
    most = [{spec.name: max(each[name] for name in ("b-1", "b-2"))} for each in counted]
    then = predict(plan, {"g": ["pos", "neg"]}, rows=most[0], texts=most[1]).clients[spec.name]
    assert way == f"embedding: rows (needs {format_bytes_mib(then.peak)})"
