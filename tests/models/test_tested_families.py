"""What ``atlas models --supported`` claims of families is what the tests have cases for."""

import importlib.util
import json
from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.models.families import supported, supported_models
from atlas_cli.models.families._tested import CLAIMS

TESTS = Path(__file__).parents[1]


def cases_of(where):
    """The model types that a test is run for, slow or not, or that a list of cases names."""
    file, name = where
    spec = importlib.util.spec_from_file_location(f"claimed_{Path(file).stem}", TESTS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name)
    if not callable(found):
        return {part for case in found for part in case}
    marks = [mark for mark in found.pytestmark if mark.name == "parametrize" and mark.args[0] in ("family", "name")]
    (parameters,) = [mark.args[1] for mark in marks]
    return {getattr(each, "values", (each,))[0] for each in parameters}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_has_its_cases(claim):
    claimed = {each.model_type for each in supported_models() if each.tested[claim.name]}
    assert claimed and not claimed - cases_of(claim.where)


def test_nothing_is_claimed_of_a_family_of_another_package(install):
    text = "from atlas_cli.models.families import gpt2\n\nclass Family(gpt2.Family):\n    model_types = ('lab',)\n"
    install("lab-family", {"lab_family": text}, "[atlas.families]\nlab = lab_family\n")
    (lab,) = [each for each in supported_models() if each.model_type == "lab"]
    assert lab.package == "lab-family" and not any(lab.tested.values())


def test_the_command_lists_every_model_type(capsys):
    assert main(["models", "--supported", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(each["model_type"] for each in told["models"]) == supported()
    assert [*told["claims"]] == [*told["models"][0]["tested"]] == [claim.name for claim in CLAIMS]
    assert main(["models", "--supported"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["deberta-v2", "encoder", "yes", "yes", "-", "-", "yes", "yes", "yes"] in rows
    assert ["gpt2", "decoder", *["yes"] * 7] in rows
