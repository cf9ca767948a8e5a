"""What codecs lose of a text is made good: with ``feedback``, and by codecs of changes."""

import pytest
import torch
from support.codecs import cases, make

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.testing import codecs
from atlas_cli.wire.messages import Activations, FeatureGradients, Gradients
from atlas_cli.wire.step_codecs import StepCodecs

D, LENGTHS = 12, [3, 5, 2, 4]
BATCHES = ([0, 1], [2, 3], [1, 2], [3, 0], [0, 1])
MESSAGES = {
    "gradients": ("gradients", lambda values: Gradients("a", values)),
    "feature_gradients": ("feature-gradients", lambda values: FeatureGradients("a", values, torch.tensor(1))),
}


def sends_alone(codec):
    return codec.change() is None


def step_codecs(dtype=torch.float32, **kinds):
    return StepCodecs.of(WireConfig.model_validate(kinds), D, dtype, dtype, 0)


def batches(dtype=torch.float32):
    """The step, the texts, their activations (B, T, D) with the mask of their tokens."""
    draw = torch.Generator().manual_seed(1)
    for step, numbers in enumerate(BATCHES):
        lengths = torch.tensor([LENGTHS[number] for number in numbers])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        values = (torch.randn(*mask.shape, D, generator=draw) * mask.unsqueeze(-1)).to(dtype)
        yield step, numbers, Activations("a", values, mask, None, torch.tensor(numbers, dtype=torch.int32))


@pytest.mark.parametrize(("kind", "dtype"), [("gradients", torch.float32), ("feature_gradients", torch.bfloat16)])
@pytest.mark.parametrize(("name", "options"), cases(sends_alone))
def test_what_was_decoded_and_what_is_kept_is_the_sum_of_what_was_given(name, options, dtype, kind):
    """Of each number of each text, to the rounding of two float32 sums a message, in whatever type it is decoded."""
    wire = step_codecs(dtype, **{kind: {"codec": name, "options": options, "feedback": True}})
    given, decoded = ([torch.zeros(length, D, dtype=torch.float64) for length in LENGTHS] for _ in "ab")
    place, message = MESSAGES[kind]
    most, loses = 0.0, False
    for step, numbers, up in batches(dtype):
        wire.decode(up)
        values = up.activations
        got = wire.decode(wire.encode(message(values), (1, step)))
        kept = wire.state_dict()
        for row, n in enumerate(numbers):
            given[n] += values[row, : LENGTHS[n]]
            decoded[n] += getattr(got, got.states)[row, : LENGTHS[n]]
            most = max(most, float(values.abs().max() + kept[f"lost/{place}/{n}"].abs().max()))
        loses |= not codecs.decoded(make(name, **options), values).to(dtype).equal(values)
    assert set(kept) == {f"lost/{place}/{n}" for n in range(len(LENGTHS))}
    for n, total in enumerate(given):
        lost = kept[f"lost/{place}/{n}"].double()
        assert (decoded[n] + lost - total).abs().max() <= len(BATCHES) * 2**-22 * most
        assert bool(lost.any()) == loses


@pytest.mark.parametrize(("name", "options"), cases(lambda codec: not sends_alone(codec)))
def test_both_ends_of_a_codec_of_changes_keep_what_was_decoded_of_a_text_last(name, options):
    """To the bit: the next change is of what there was to send, less that."""
    ends = [step_codecs(activations={"codec": name, "options": options}) for _ in "ab"]
    last = {}
    for step, numbers, up in batches():
        sent = ends[0].encode(up, (1, step))
        got = ends[1].decode(Activations.of("a", sent.tensors)).activations
        last |= {n: got[row, : LENGTHS[n]] for row, n in enumerate(numbers)}
    for end, what in zip(ends, ("sent", "received"), strict=True):
        kept = end.state_dict()
        assert set(kept) == {f"{what}/activations/{n}" for n in last}
        assert all(kept[f"{what}/activations/{n}"].equal(values) for n, values in last.items())
