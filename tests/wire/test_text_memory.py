"""What codecs keep of each text: changes that are sent, and errors that are made good."""

import pytest
import torch

from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.storage.state_dict import StateError
from atlas_cli.wire.messages import Activations
from atlas_cli.wire.step_codecs import StepCodecs

D = 12
LENGTHS = [3, 5, 2, 4]


def codecs(**kinds):
    wire = WireConfig(**{kind: CodecConfig.model_validate(each) for kind, each in kinds.items()})
    return StepCodecs.of(wire, D, torch.float32, torch.float32, 0)


def texts(numbers):
    """The mask (B, T) of a batch, and its numbers."""
    lengths = torch.tensor([LENGTHS[number] for number in numbers])
    return torch.arange(int(lengths.max())) < lengths[:, None], torch.tensor(numbers, dtype=torch.int32)


def send(sender, receiver, step, numbers, values):
    """The values of each text (L, D), by activations of a batch; what is sent, and what is decoded."""
    mask, examples = texts(numbers)
    whole = torch.randn(*mask.shape, D)  # padding is not 0
    for row, value in enumerate(values):
        whole[row, : len(value)] = value
    sent = sender.encode(Activations("a", whole, mask, None, examples), (1, step))
    return sent, receiver.decode(Activations.of("a", sent.tensors)).activations


@pytest.fixture
def words():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(length, D, generator=draw) for length in LENGTHS]


DELTA = {"codec": "delta", "options": {"codec": "int4", "options": {"block": None}}}


def test_a_text_that_stays_as_it_is_is_known_better_with_every_message(words):
    sender, receiver = (codecs(activations={**DELTA, "options": {**DELTA["options"], "first": "int4"}}) for _ in "ab")
    before = max(float(word.abs().max()) for word in words)
    for step, numbers in enumerate(([0, 1], [1, 0], [0, 2, 1], [1, 3], [2, 1])):
        _, found = send(sender, receiver, step, numbers, [words[n] for n in numbers])
        if step >= 3:
            continue
        errors = [float((found[numbers.index(n), : LENGTHS[n]] - words[n]).abs().max()) for n in (0, 1) if n in numbers]
        assert max(errors) <= 1.001 * before / 14
        before = max(errors)
    assert before < 1e-3


def test_first_messages_are_whole_and_both_ends_keep_the_same(words):
    sender, receiver = codecs(activations=DELTA), codecs(activations=DELTA)
    _, found = send(sender, receiver, 0, [0, 1], words[:2])
    assert found[0, :3].equal(words[0]) and found[1].equal(words[1]) and not found[0, 3:].any()  # padding is 0
    moved = [word + 0.01 * torch.randn(word.shape) for word in words]
    sent, found = send(sender, receiver, 1, [2, 1], [moved[2], moved[1]])
    assert found[0, :2].equal(moved[2]) and 0 < (found[1] - moved[1]).abs().max() < 0.01
    assert sent.payload_bytes == 4 * 2 + 2 * 5 + 4 * 5 * D + 5 * (D // 2 + 4)  # numbers, mask, one whole, one change
    exact = torch.cat([moved[2], moved[1]]).norm()
    assert sent.lost.figures()["relative_error"] == pytest.approx(float((found[1] - moved[1]).norm() / exact), rel=1e-4)
    kept = [wire.memory.state_dict() for wire in (sender, receiver)]
    assert [sorted(name.partition("/")[2] for name in each) for each in kept] == [
        ["activations/0", "activations/1", "activations/2"]
    ] * 2
    assert all(kept[0][f"sent/activations/{n}"].equal(kept[1][f"received/activations/{n}"]) for n in range(3))
    assert receiver.memory.bytes() == 4 * D * (3 + 5 + 2)


def test_the_bytes_of_a_message_follow_from_what_the_server_keeps(words):
    both = codecs(activations=DELTA)
    for step, numbers in enumerate(([0, 1], [1, 2], [2, 1])):
        said = both.payload_bytes("activations", 2, 5, numbers)
        sent, _ = send(both, both, step, numbers, [words[n] for n in numbers])
        assert sent.payload_bytes == said + 4 * 2 + 2 * 5
    mask, _ = texts([2, 1])
    assert (
        both.blank(Activations("a", torch.zeros(2, 5, D), mask)).bytes == sent.bytes
    )  # of texts that were sent before


def test_an_end_that_goes_on_from_a_state_sends_the_same(words):
    sender, other = codecs(activations=DELTA), codecs(activations=DELTA)
    send(sender, codecs(activations=DELTA), 0, [0, 1], words[:2])
    other.load_state_dict({name: kept.clone() for name, kept in sender.state_dict().items()})
    moved = [word + 0.1 for word in words[:2]]
    mask, examples = texts([0, 1])
    whole = torch.zeros(*mask.shape, D)
    whole[0, :3], whole[1] = moved
    first, second = (
        each.encode(Activations("a", whole, mask, None, examples), (2, 0)).tensors for each in (sender, other)
    )
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("sent/gradients/0", torch.zeros(2, D)),
        ("sent/activations/x", torch.zeros(2, D)),
        ("sent/activations/0", torch.zeros(2, D + 1)),
        ("sent/activations/0", torch.zeros(2, D, dtype=torch.float64)),
    ],
)
def test_a_state_of_no_codec_is_refused(name, kept):
    with pytest.raises(StateError, match=f"wire/{name}"):
        codecs(activations=DELTA).load_state_dict({name: kept})
