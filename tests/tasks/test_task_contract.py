"""A task file that does not keep the contract is refused when it is loaded: file, name and the nearest valid name."""

import importlib.util
import sys

import pytest

from atlas_cli.errors import ConfigError
from atlas_cli.plugins import check
from atlas_cli.tasks.contract import BaseTask, check_declared

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
        check(module.Task, BaseTask)
        check_declared(module.Task)
        return module.Task

    return loaded


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def metrc(self): ...", "Task.metrc is nothing that BaseTask has; did you mean metric?"),
        ("primary_metrics = 'loss'", "primary_metrics is nothing that BaseTask has; did you mean primary_metric?"),
        ("label_dtyp: str", "label_dtyp is nothing that BaseTask has; did you mean label_dtype?"),
        ("fields = 'text'", "Task.fields is 'text': Input should be a valid tuple"),
        ("label_dtype = 'float32'", "Task.label_dtype is 'float32': Input should be an instance of dtype"),
        ("better = {'pearson': 'up'}", "Input should be 'higher' or 'lower'"),
        ("primary_metric = 'r2'", "Task does not say whether a higher or a lower r2 is better; add better = "),
        ("forms = {'labl': 'number'}", "Task.forms: labl is no field; did you mean label?"),
        ("one_class = True", "one_class needs has_classes"),
        ("loss = None", "Task.loss is None, and must be a method loss(self, logits, labels)"),
        (
            "def encode(self, row, tokenizer): ...",
            "Task.encode takes (self, row, tokenizer), and is called with (self, row, tokenizer, max_length)",
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
        (
            "class Task(BaseTask): ...",
            "defines no build_head(self, hidden_size, lm_head)",
        ),
        (
            "class _Figures(Metric):\n    def updat(self): ...\nclass Task(regression.Task): ...",
            "_Figures defines no compute and no update, as a Metric must",
        ),
        (
            "class Task(BaseTask):\n    fields = prediction_fields = ('text',)\n    primary_metric = 'loss'\n"
            "    better = {'loss': 'lower'}\n    def loss(self, logits, labels): ...",
            "defines no build_head(self, hidden_size, lm_head)",
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
