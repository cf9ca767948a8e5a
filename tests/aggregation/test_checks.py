"""What a method returns is held against its contract while it merges."""

import pytest
import torch
from support.merging import factors

from atlas_cli.aggregation.checks import (
    require_corrected,
    require_delivered,
    require_lossless,
    require_merge,
    require_merged_head,
    require_parts,
    require_penalty,
    require_selected,
    require_tensors,
    require_turns,
    require_unchanged_by,
    term_of,
    told_extras,
)
from atlas_cli.aggregation.contract import ClientTerm, Context, ExtraTensors, Factors, Layer, Merge, Parts
from atlas_cli.aggregation.methods.fedex import Method as Fedex
from atlas_cli.aggregation.methods.zero_pad import Method as ZeroPad
from atlas_cli.errors import AtlasError, ConfigError, NonFiniteError, PluginError

CURRENT = {"q": factors(4, 6, 5, 0), "v": factors(2, 6, 6, 1)}
WRONG = {
    "returned a dict, expected a Merge": dict(CURRENT),
    "the merged adapter lacks v": Merge({"q": CURRENT["q"]}),
    "the merged adapter has another layer, x": Merge({**CURRENT, "x": CURRENT["q"]}),
    r"q is no Factors\(A, B\)": Merge({**CURRENT, "q": torch.zeros(4, 6)}),
    r"q has A \(3, 6\) and B \(5, 3\), expected A \(4, 6\) and B \(5, 4\)": Merge(
        {**CURRENT, "q": Factors(CURRENT["q"].A[:3], CURRENT["q"].B[:, :3])}
    ),
    "a change of the base, and Method.CHANGES_BASE is False": Merge(dict(CURRENT), base={"q": CURRENT["q"]}),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_merge_that_breaks_the_contract_is_named(says):
    with pytest.raises(AtlasError, match=rf"zero_pad\.py: Method\.aggregate, g, round 3: .*{says}"):
        require_merge(ZeroPad(), WRONG[says], CURRENT, Context("g", 3))


def test_a_merge_that_keeps_it_is_handed_on():
    plain, with_base = Merge(dict(CURRENT)), Merge(dict(CURRENT), base={"q": CURRENT["q"]})
    assert require_merge(ZeroPad(), plain, CURRENT, Context("g", 3)) is plain
    assert require_merge(Fedex(), with_base, CURRENT, Context("g", 3)) is with_base


@pytest.mark.parametrize("name", ["SENT", "DELIVERED", "TRAINED"])
def test_parts_that_no_adapter_has_are_refused(name):
    broken = type("Method", (ZeroPad,), {name: ("A", "C"), "__module__": ZeroPad.__module__})
    with pytest.raises(ConfigError, match=rf"Method\.{name} has 'C'; expected of A, B"):
        require_parts(broken)


TURNS = {
    "gives a tuple, expected Parts": lambda merge: ("A",),
    r"gives sent=\('C',\), and SENT has \('A', 'B'\)": lambda merge: Parts(("A",), ("C",), ("A",)),
    "trains more parts for some merges than for others": lambda merge: Parts(("A", "B")[:merge], ("A",), ("A",)),
}


@pytest.mark.parametrize("says", TURNS)
def test_turns_that_break_the_contract_are_named(says):
    broken = ZeroPad()
    broken.parts_of = TURNS[says]
    with pytest.raises(ConfigError, match=rf"zero_pad\.py: Method\.parts_of {says}"):
        require_turns(broken)


@pytest.mark.parametrize("found", [None, 2, [0], [1, 0], [0, 0], [1, 4], [-1, 0], range(3)])
def test_a_selection_that_a_client_cannot_train_is_named(found):
    with pytest.raises(
        PluginError, match=r"Method\.selected gives .*, expected 2 numbers in ascending order, .* to 3$"
    ):
        require_selected(ZeroPad(), found, 2, 4)
    assert require_selected(ZeroPad(), (1, 3), 2, 4) == [1, 3]


@pytest.mark.parametrize(
    "change",
    [{"PRUNES": True}, {"DELIVERED": ("A",)}, {"SENT": ("B",)}, {"TRAINED": ("B",)}, {"CUTS_MAY_DIFFER": True}],
)
def test_a_method_that_selects_delivers_all(change):
    says = {"SELECTS": True, "CUTS_MAY_DIFFER": False, "TAKES_LATE": None}
    require_parts(type("Method", (ZeroPad,), says))
    with pytest.raises(ConfigError, match=r"Method\.SELECTS needs the parts that are trained"):
        require_parts(type("Method", (ZeroPad,), says | change))


class Term(ClientTerm):
    def state_dict(self):
        return {name: value for name, value in self.state.items() if name != "lost"}


LAYERS = {"q": Layer(4, 6, 5)}
TOLD = {"c": (2, 3)}
NAN = {**CURRENT, "q": Factors(CURRENT["q"].A * float("nan"), CURRENT["q"].B)}


def method(**hooks):
    return type("Method", (ZeroPad,), {"__module__": __name__, **hooks})()


def holding(**state):
    term = Term()
    term.state = {name: torch.ones(2) for name in state}
    return term


BROKEN = {
    r"Method\.client_term gives a dict, expected a ClientTerm or None": lambda: term_of(method(client_term=dict)),
    r"Method\.extra_tensors gives a dict, expected ExtraTensors": lambda: told_extras(
        method(extra_tensors=lambda self, layers: {}), LAYERS
    ),
    r"Method\.extra_tensors: up has c of shape \(2\.0,\), expected whole numbers": lambda: told_extras(
        method(extra_tensors=lambda self, layers: ExtraTensors(up={"c": (2.0,)})), LAYERS
    ),
    r"Method\.extras_for is nothing, expected tensors by name": lambda: require_tensors(
        method(), "extras_for", None, TOLD, "down"
    ),
    r"Method\.extras_for lacks c, which extra_tensors tells as down": lambda: require_tensors(
        method(), "extras_for", {}, TOLD, "down"
    ),
    r"Term\.end_round has c of shape \(2,\), and extra_tensors tells shape \(2, 3\) as up": lambda: require_tensors(
        Term(), "end_round", {"c": torch.ones(2)}, TOLD, "up"
    ),
    r"Term\.state has d of shape \(2,\), and extra_tensors tells nothing of that name": lambda: require_tensors(
        Term(), "state", {"d": torch.ones(2)}, TOLD, "at_client", all_of_them=False
    ),
    r"Term\.end_round has c of type torch\.int64, expected torch\.float32": lambda: require_tensors(
        Term(), "end_round", {"c": torch.ones(2, 3, dtype=torch.int64)}, TOLD, "up"
    ),
    r"Method\.deliver lacks v": lambda: require_delivered(method(), {"q": CURRENT["q"]}, CURRENT),
    r"Method\.deliver gives v with A \(4, 6\) and B \(5, 4\), expected A \(2, 6\)": lambda: require_delivered(
        method(), dict.fromkeys(CURRENT, CURRENT["q"]), CURRENT
    ),
    r"Method\.merge_values gives a tensor of shape \(\), expected shape \(3, 4\)": lambda: require_merged_head(
        method(), torch.tensor(1.0), torch.ones(3, 4)
    ),
    r"Term\.corrected \(None leaves gradients unchanged\) lacks q": lambda: require_corrected(Term(), {}, CURRENT),
    r"Term\.corrected gives q that is not finite, from gradients that are": lambda: require_corrected(
        Term(), NAN, CURRENT
    ),
    r"Term\.penalty gives a float, expected a tensor or None": lambda: require_penalty(Term(), 0.5),
    r"Term\.penalty gives a tensor of shape \(2,\), expected a 0-d one": lambda: require_penalty(Term(), torch.ones(2)),
    r"Term\.penalty gives a tensor that does not depend": lambda: require_penalty(Term(), torch.tensor(1.0)),
    r"Term\.begin_round writes to the adapter": lambda: require_unchanged_by(Term(), False),
    r"Term\.state_dict: lost of state is not what it was": lambda: require_lossless(holding(own=1, lost=1), Term()),
}


@pytest.mark.parametrize("says", BROKEN)
def test_what_a_method_or_its_term_gives_is_held_against_what_it_tells(says):
    with pytest.raises(PluginError, match=rf"test_checks\.py: {says}") as caught:
        BROKEN[says]()
    assert isinstance(caught.value, NonFiniteError) == ("finite" in says), "else a client may be dropped for it"


def test_what_keeps_the_contract_is_handed_on():
    value = torch.tensor(1.0, requires_grad=True) * 2
    assert require_penalty(Term(), value) is value
    assert require_corrected(Term(), CURRENT, CURRENT) == CURRENT == require_delivered(method(), CURRENT, CURRENT)
    assert require_corrected(Term(), NAN, NAN).keys() == CURRENT.keys(), "what was not finite before is not the term's"
    require_tensors(Term(), "end_round", {"c": torch.ones(2, 3)}, TOLD, "up")
    require_lossless(holding(own=1), Term())
    assert term_of(method()) is None and told_extras(method(), LAYERS) == ExtraTensors()
