"""A task file that does not keep the contract is refused when it is loaded: file, name and the nearest valid name."""

import importlib.util
import sys

import pytest

from atlas_cli.errors import ConfigError
from atlas_cli.tasks.contract import check

START = """
from atlas_cli.tasks import regression
from atlas_cli.tasks.contract import BaseTask, Metric
"""
TASK = f"""{START}
class Task(regression.Task):
    BODY
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    def loaded(text):
        file = tmp_path / "stranger.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("stranger", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "stranger", module)
        spec.loader.exec_module(module)
        check(module)
        return module.Task

    return loaded


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def metrc(self): ...", "Task has a name that its contract does not know: metrc; did you mean metric?"),
        ("primary_metrics = 'loss'", "primary_metrics; did you mean primary_metric?"),
        ("label_dtyp: str", "label_dtyp; did you mean label_dtype?"),
        ("fields = 'text'", "Task.fields: 'text' is not tuple[str, ...]"),
        ("label_dtype = 'float32'", "Task.label_dtype: 'float32' is not torch.dtype"),
        ("better = {'pearson': 'up'}", "is not Mapping[str, Better]"),
        ("primary_metric = 'r2'", "Task does not say whether a higher or a lower r2 is better; add better = "),
        ("forms = {'labl': 'number'}", "Task.forms: labl is no field; did you mean label?"),
        ("one_class = True", "one_class needs has_classes"),
        ("loss = None", "Task.loss must be a function of (self, logits, labels)"),
        (
            "def encode(self, row, tokenizer): ...",
            "must be a function of (self, row, tokenizer, max_length)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file(load, tmp_path, body, says):
    with pytest.raises(ConfigError) as caught:
        load(TASK.replace("BODY", body))
    assert str(caught.value).startswith(f"{tmp_path / 'stranger.py'}: Task")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Tsak(regression.Task): ...", "defines no class Task(BaseTask); did you mean Tsak?"),
        ("Task = 3", "defines no class Task(BaseTask)"),
        (
            "class Task(BaseTask): ...",
            "does not say its fields (tuple[str, ...]); atlas_cli.tasks.contract",
        ),
        (
            "class _Figures(Metric):\n    def updat(self): ...\nclass Task(regression.Task): ...",
            "_Figures does not define compute, update, as a Metric must",
        ),
        (
            "class Task(BaseTask):\n    fields = prediction_fields = ('text',)\n    primary_metric = 'loss'\n"
            "    better = {'loss': 'lower'}\n    def loss(self, logits, labels): ...",
            "does not define build_head, encode, label_tensor, metric, predictions",
        ),
    ],
)
def test_what_a_file_lacks_is_named(load, tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        load(f"{START}\n{text}")
    assert str(caught.value).startswith(str(tmp_path / "stranger.py")) and says in str(caught.value)


def test_names_of_its_own_begin_with_an_underscore(load):
    task = load(TASK.replace("BODY", "_scale = 5.0\n    def _scaled(self, x): ...\n    keep_end = True"))
    assert task._scale == 5.0
