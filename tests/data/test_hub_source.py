"""Hub data sets, with the loader replaced: class names, splits, and what each failure says."""

import re
import sys
from types import SimpleNamespace

import pytest

from atlas_cli.config.schema.experiment import DataConfig
from atlas_cli.data.sources import hub, read_source
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.extras import install_command


class Rows(list):
    """Rows with features, as a data set has them."""

    def __init__(self, rows, features):
        super().__init__(rows)
        self.features = features


LABEL = SimpleNamespace(names=["neg", "pos"])
TAGS = SimpleNamespace(feature=SimpleNamespace(names=["O", "B"]))
TEXT = SimpleNamespace(dtype="string")


class DatasetsError(Exception):
    """Base of the stub's own errors."""


@pytest.fixture
def answer(monkeypatch):
    """Install a stub of ``datasets`` whose loader answers by split; an exception is raised."""
    calls = []

    def install(**splits):
        def load_dataset(*args, split, **kwargs):
            calls.append((*args, split, kwargs))
            if isinstance(splits[split], Exception):
                raise splits[split]
            return splits[split]

        stub = SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=DatasetsError))
        monkeypatch.setitem(sys.modules, "datasets", stub)
        return calls

    return install


def load(**data):
    return read_source(DataConfig(**data), "task_groups.g.data")


def test_numbers_become_names_and_code_is_never_asked_for(answer):
    rows = [{"text": "a", "label": 1, "tags": [0, 1], "n": 5}, {"text": "b", "label": -1, "tags": [], "n": None}]
    calls = answer(train=Rows(rows, {"text": TEXT, "label": LABEL, "tags": TAGS, "n": TEXT}))
    source = load(hub="owner/set")
    assert source.train == [
        {"text": "a", "label": "pos", "tags": ["O", "B"], "n": 5},
        {"text": "b", "label": None, "tags": [], "n": None},
    ]
    assert source.test is None and source.origin == "hub data set owner/set"
    assert calls == [("owner/set", None, "train", {})]


def test_subset_and_splits(answer):
    calls = answer(validation=Rows([{"text": "a"}], {"text": TEXT}), test=Rows([{"text": "b"}], {"text": TEXT}))
    source = load(hub="s", subset="en", split="validation", test_split="test")
    assert (source.train, source.test) == ([{"text": "a"}], [{"text": "b"}])
    assert source.origin == "hub data set s/en"
    assert [call[:3] for call in calls] == [("s", "en", "validation"), ("s", "en", "test")]
    assert source.validation is None
    answer(train=Rows([{"text": "a"}], {"text": TEXT}), validation=Rows([{"text": "b"}], {"text": TEXT}))
    source = load(hub="s", validation_split="validation")
    assert (source.train, source.test, source.validation) == ([{"text": "a"}], None, [{"text": "b"}])


def test_real_features_have_the_same_shape():
    datasets = pytest.importorskip("datasets")
    assert hub._class_names(datasets.ClassLabel(names=["a", "b"])) == ["a", "b"]
    assert hub._class_names(datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))) == ["a", "b"]
    assert hub._class_names(datasets.Value("string")) is None
    assert issubclass(datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DatasetsError)


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), FileNotFoundError("gone"), DatasetsError("private")])
def test_not_reachable_says_what_to_do(answer, error):
    answer(train=error)
    with pytest.raises(
        ResourceError, match=r"hub data set 's' cannot be read \(.*\); check the name .* data\.files"
    ) as e:
        load(hub="s")
    assert "\n" not in str(e.value)


def test_an_unknown_split_blames_its_key(answer):
    answer(
        train=Rows([{"text": "a"}], {"text": TEXT}), dev=ValueError('Unknown split "dev". Should be one of [train].')
    )
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.test_split: hub data set 's': Unknown split"):
        load(hub="s", test_split="dev")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ResourceError, match=re.escape(f"need the datasets package: {install_command('data')}")):
        load(hub="s")


def test_one_name_and_no_foreign_keys(answer):
    with pytest.raises(ConfigError, match=r"data\.hub: give one name"):
        load(hub=["a", "b"])
    with pytest.raises(ConfigError, match=r"data\.test_files: only goes with files"):
        load(hub="a", test_files="x.csv")
