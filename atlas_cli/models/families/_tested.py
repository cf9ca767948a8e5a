"""What is tested of each family of this package: a test looks for the cases of every claim that is made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from atlas_cli.models.families.contract import BaseFamily


class Claim(NamedTuple):
    """What is tested of a family on a small model of random weights.

    Attributes:
        name: a word or two.
        says: what holds, in a sentence.
        of: the families that it is claimed of.
        where: the file of the tests, and the test or the list of cases that has every ``model_type``.
    """

    name: str
    says: str
    of: Callable[[BaseFamily], bool]
    where: tuple[str, str]


def _all(_family: BaseFamily) -> bool:
    return True


CLAIMS = (
    Claim(
        "every cut",
        "At every split layer, loss and gradients of the split are those of the unsplit model, to the last bit.",
        _all,
        ("models/test_split_exact.py", "test_every_family_at_every_cut"),
    ),
    Claim(
        "padding",
        "The same without padding, and with padding on the right or on the left.",
        _all,
        ("testing/test_family_checks.py", "test_every_family"),
    ),
    Claim(
        "packing",
        "A row of real tokens, as clients share a pass, gives what the padded batch gives.",
        lambda family: family.packs,
        ("models/test_packed.py", "test_both_halves_and_their_gradients"),
    ),
    Claim(
        "generation",
        "Text generated through the split is that of the merged model's own generate, token for token.",
        lambda family: family.causal,
        ("federation/test_split_generation.py", "test_split_generation_is_the_merged_models"),
    ),
    Claim(
        "export",
        "A merged folder and a PEFT adapter give the run's logits in transformers and PEFT, without atlas.",
        _all,
        ("inference/test_export.py", "CASES"),
    ),
    Claim(
        "memory",
        "The predicted memory of a client is that which is measured, part by part.",
        _all,
        ("planning/test_memory_trace.py", "test_families"),
    ),
    Claim(
        "FLOPs",
        "The FLOPs of a client's step are those that torch counts.",
        _all,
        ("planning/test_cost.py", "test_client_flops_are_those_that_torch_counts"),
    ),
)
