"""Changes in the text of a config: values are set, and all else stays, to the character."""

import pytest

from atlas_cli.config import strict_yaml
from atlas_cli.config.edit import edited

TEXT = """\
# what it is about
model: {name: minilm, split_layer: 3}  # the cut
lora:
  rank: 8   # of all
  # more to come

clients:
  a: {task_group: g}   # in braces
  b:
    task_group: g  # the last key
    rank: {0: 4, 1: 8}
  c: {task_group: g,
      rank: 4,  # inside
      }
training:
"""


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        (("model", "split_layer"), 2, "split_layer: 3}  # the cut", "split_layer: 2}  # the cut"),
        (("model", "dtype"), "bfloat16", "split_layer: 3}", "split_layer: 3, dtype: bfloat16}"),
        (("lora", "rank"), 2, "rank: 8   # of all", "rank: 2   # of all"),
        (("clients", "a", "rank"), 4, "g}   # in", "g, rank: 4}   # in"),
        (("clients", "b", "rank"), 2, "rank: {0: 4, 1: 8}", "rank: 2"),
        (("clients", "b", "checkpointing"), True, "1: 8}\n", "1: 8}\n    checkpointing: true\n"),
        (("clients", "c", "embedding"), "rows", "rank: 4,", "rank: 4, embedding: rows,"),
        (("training", "batch_size"), 4, "training:", "training: {batch_size: 4}"),
        (("wire", "activations"), {"codec": "int8"}, "training:\n", "training:\nwire: {activations: {codec: int8}}\n"),
    ],
)
def test_one_value(path, value, before, after):
    assert TEXT.count(before) == 1
    assert edited(TEXT, {path: value}) == TEXT.replace(before, after)


def test_many_values_of_a_text_without_a_last_line_end():
    changed = edited("a: 1\nb:\n  c: 2", {("b", "d"): "no", ("e", "f", "g"): 3, ("a",): 2})
    assert strict_yaml.parse(changed, "text").data == {"a": 2, "b": {"c": 2, "d": "no"}, "e": {"f": {"g": 3}}}
