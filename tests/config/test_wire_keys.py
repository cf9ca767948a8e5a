"""The keys under ``wire``, and what is refused of them."""

import pytest

from atlas_cli.config.checks import cross_check
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.plan import make_plan


def test_the_key_that_was_there_before_names_the_new_one():
    with pytest.raises(ConfigError, match=r"privacy.compress: is now said by kind of message; write wire: "):
        load_config("offline", ["privacy.compress=int8"])


def problems(config):
    return {".".join(map(str, problem.path)): problem.message for problem in cross_check(config)}


def test_codecs_are_for_what_crosses_a_split(make_config):
    wire = {"activations": {"codec": "int8"}}
    federated = make_config(mode="federated", wire=wire)
    assert "mode is federated" in problems(federated)["wire.activations"]
    both = {"adapters": {"codec": "int8"}, "header": "compact"}
    assert not problems(make_config(mode="federated", wire=both))  # of what is merged
    assert problems(make_config(mode="local-only", wire=both)).keys() == {"wire.adapters", "wire.header"}
    with pytest.raises(ConfigError, match="with none nothing is sent") as error:
        header = {"wire": {"header": "compact"}, "server": {"rank": 0}}
        make_plan(make_config(mode="federated", aggregation={"method": "none"}, **header))
    assert error.value.key == "wire.header"
    assert not problems(make_config(mode="federated", wire={"activations": {"codec": "none"}}))
    own = make_config(clients={"a": {"task_group": "g", "wire": {"features": {"codec": "int8"}}}})
    assert "training.labels: client" in problems(own)["clients.a.wire.features"]


def delta(**options):
    return {"codec": "delta", "options": options}


@pytest.mark.parametrize(
    ("wire", "key", "says"),
    [
        ({"codec": "int8", "options": {"blok": 4}}, "options.blok", "did you mean block"),
        ({"codec": "int4", "options": {"block": 1}}, "options.block", "greater than or equal to 2"),
        ({"codec": "bfloat16", "options": {"block": 4}}, "options.block", "is not an option of bfloat16; it has none"),
        (delta(codec="low-rank", options={"rnk": 4}), "options.options.rnk", "is not an option of low-rank; did you"),
        (delta(first="int8", first_options={"block": 1}), "options.first_options.block", "than or equal to 2"),
        (delta(codec="delta"), "options.codec", "by another codec than itself; take int4 or low-rank"),
        (delta(first="delta"), "options.first", "by another codec than itself; take int4 or bfloat16"),
        (delta(first="int3"), "options.first", r": 'int3' is not known; expected [^']*; did you mean int8\?$"),
    ],
)
@pytest.mark.parametrize("whose", ["wire", "clients.b.wire"])
def test_options_are_checked_where_they_are_given(make_config, wire, key, says, whose):
    asked = {"gradients": wire}
    own = {"clients": {"b": {"task_group": "g", "wire": asked}}}
    config = make_config(**({"wire": asked} if whose == "wire" else own))
    with pytest.raises(ConfigError, match=says) as error:
        make_plan(config)
    assert error.value.key == f"{whose}.gradients.{key}"


def test_a_codec_that_couples_examples_is_refused_where_each_is_bounded_alone(make_config):
    config = make_config(
        wire={"activations": {"codec": "vector-quantised"}},
        privacy={"examples": {"clip": 1.0, "noise_multiplier": 1.0}},
        training={"labels": "client"},
        server={"rank": 0},
    )
    with pytest.raises(ConfigError, match="bounds each alone") as error:
        make_plan(config)
    assert error.value.key == "wire.activations.codec"


def test_feedback_is_of_gradients_and_of_what_loses_something(make_config):
    def asked(kind, **codec):
        return make_config(wire={kind: {"feedback": True, **codec}})

    assert "is of gradients and adapters" in problems(asked("activations", codec="int4"))["wire.activations.feedback"]
    assert "loses nothing" in problems(asked("gradients", codec="none"))["wire.gradients.feedback"]
    assert not problems(asked("gradients", codec="int4"))
    with pytest.raises(ConfigError, match="by itself") as error:
        make_plan(asked("gradients", codec="delta"))
    assert error.value.key == "wire.gradients.feedback"
    nested = {"codec": "delta", "options": {"codec": "delta"}}
    with pytest.raises(ConfigError, match="another codec than itself"):
        make_plan(make_config(wire={"activations": nested}))


def test_clients_that_send_a_text_once_have_codecs_of_single_tokens(make_config):
    frozen = {"clients": {"a": {"task_group": "g", "learns": "frozen"}}}
    make_plan(make_config(**frozen, wire={"activations": {"codec": "top-k"}}))
    with pytest.raises(ConfigError, match="does not encode each token alone") as error:
        make_plan(make_config(**frozen, wire={"activations": {"codec": "low-rank"}}))
    assert error.value.key == "clients.a.wire.activations"


def test_gradients_have_no_codec_where_none_come_back(make_config, make_federation):
    wire = {"gradients": {"codec": "int8", "feedback": True}}
    for learns in ("frozen", "auxiliary"):
        found = problems(make_config(clients={"a": {"task_group": "g", "learns": learns, "wire": wire}}))
        assert "no gradient comes back" in found["clients.a.wire.gradients"]
    shared = make_federation(wire=wire, clients={"a": {"task_group": "g", "learns": "auxiliary"}})
    assert not shared.clients["a"].wire.numbered and shared.clients["b"].wire.numbered


def test_memory_for_texts_is_refused_where_no_codec_keeps_any(make_config):
    idle = {"wire": {"gradients": {"codec": "int8"}}, "engine": {"kept_texts": "1 MiB"}}
    feedback = {"wire": {"gradients": {"codec": "int8", "feedback": True}}}
    auxiliary = {name: {"task_group": "g", "learns": "auxiliary"} for name in "abc"}
    for changes in (idle, {**idle, **feedback, "clients": auxiliary}):
        with pytest.raises(ConfigError, match="keep of texts, and none does") as error:
            make_plan(make_config(**changes))
        assert error.value.key == "engine.kept_texts"
    make_plan(make_config(**{**idle, **feedback}))


def test_an_unknown_codec_is_told_with_those_that_there_are(make_config):
    with pytest.raises(ValueError, match=r"'int9' is not known.*int8"):
        make_config(wire={"activations": {"codec": "int9"}})


@pytest.mark.parametrize("key", ["feedback", "changed_rows"])
def test_a_kind_has_the_keys_that_its_schema_and_its_checks_allow(make_config, key):
    fields = WireConfig.model_json_schema()["properties"]
    for kind in ("activations", "gradients", "features", "feature_gradients", "adapters", "deliveries"):
        config = make_config(training={"labels": "client"}, wire={kind: {"codec": "int8", key: True}})
        refused = f"wire.{kind}.{key}" in problems(config)
        assert refused == (fields[kind].get("properties", {}).get(key) == {"const": False})
