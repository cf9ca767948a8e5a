"""Codecs: round trips, the bytes that their layouts say, and the bounds of what they lose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.codecs import cases, make

from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.errors import NonFiniteError
from atlas_cli.planning.memory.saved_trace import LiveBytes
from atlas_cli.testing import codecs
from atlas_cli.wire.codecs._bits import pack, packed_bytes, unpack
from atlas_cli.wire.codecs._blocks import scaled
from atlas_cli.wire.codecs.vector_quantised import DISTANCES
from atlas_cli.wire.messages import Activations, Gradients
from atlas_cli.wire.step_codecs import StepCodecs

# the error of a number, in units of the largest of its block
BOUNDS = {"bfloat16": 2**-8, "int8": 1 / 254, "int4": 1 / 14, "nf4": 0.152}
GENERATOR = torch.Generator().manual_seed(0)


def payload(codec, shape):
    return sum(part.bytes for part in codec.layout(shape, torch.float32).values())


@pytest.mark.parametrize(("name", "options"), [("none", {}), *cases()])
def test_every_codec_sends_what_its_layout_says_and_decodes_it(name, options):
    codecs.check(name, options)


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packed_numbers_come_back_in_the_bytes_that_their_bits_need(bits, count, seed):
    numbers = torch.randint(0, 2**bits, (2, 3, count), generator=torch.Generator().manual_seed(seed))
    packed = pack(numbers, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (2, 3, -(-count * bits // 8)) == (
        2,
        3,
        packed_bytes(count, bits),
    )
    assert unpack(packed, bits, count).long().equal(numbers)


@given(
    st.sampled_from(sorted(BOUNDS)),
    st.sampled_from([None, 4, 64]),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70)),
    st.sampled_from([1.0, 1e-3, 1e20, 3e38, 1e-37, 1e-42]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_what_is_lost_is_within_bounds_for_numbers_of_any_size(name, block, shape, size, seed):
    draw = torch.Generator().manual_seed(seed)
    values = (torch.rand(shape, generator=draw) * 2 - 1) * size
    values[0, 0] = size  # a constant row
    codec = make(name) if name == "bfloat16" else make(name, block=block)
    found = codecs.check_values(codec, values)
    if name == "bfloat16":
        assert ((found - values).abs() <= BOUNDS[name] * values.abs() + 1e-38).all()
        return
    for start in range(0, shape[2], block or shape[2]):
        here = slice(start, start + (block or shape[2]))
        most = values[..., here].abs().amax(-1, keepdim=True)
        # below the smallest scale what is sent is 0 or the nearest multiple of it
        assert ((found - values)[..., here].abs() <= 1.0001 * BOUNDS[name] * most + 1e-30).all()


def test_codecs_have_the_bytes_of_their_documented_forms():
    b, t, d = 8, 128, 768
    tokens = b * t
    assert payload(make("none"), (b, t, d)) == 4 * tokens * d
    assert payload(make("bfloat16"), (b, t, d)) == 2 * tokens * d
    assert payload(make("int8"), (b, t, d)) == tokens * (d + 4)
    assert payload(make("int8", block=64), (b, t, d)) == tokens * (d + 4 * 12)
    for name in ("int4", "nf4"):
        assert payload(make(name, block=None), (b, t, d)) == tokens * (d // 2 + 4)
        assert payload(make(name), (b, t, d)) == tokens * d // 2 + 4 * -(-tokens * d // 64)
        assert payload(make(name, block=None), (b, t, 7)) == tokens * (4 + 4)
    for name in ("top-k", "random-top-k"):
        assert payload(make(name), (b, t, d)) == tokens * (4 * 76 + 95)
        assert payload(make(name, numbers="bfloat16"), (b, t, d)) == tokens * (2 * 76 + 95)
    assert payload(make("low-rank", rank=32, bits=4), (b, t, d)) == b * (32 * (t + d) // 2 + 8 * 32)
    assert payload(make("vector-quantised", pieces=96, levels=16), (b, t, d)) == 4 * 16 * 8 + tokens * 48


@given(
    st.sampled_from([None, 2, 5, 64]),
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 70)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([1.0, 1e20, 4e37, 1e-37, 1e-42]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_int4_sends_levels_rounded_to_the_nearest_and_of_two_to_the_even_one(block, shape, dtype, size, seed):
    """To the bit, also where a number is half way between two: in every second case all are."""
    draw = torch.Generator().manual_seed(seed)
    values = (
        torch.rand(shape, generator=draw) * 2 - 1 if seed % 2 else torch.randint(-14, 15, shape, generator=draw) / 2
    )
    values = (values * size).to(dtype)
    sent = make("int4", block=block).encode(values, draw)
    units, scale = scaled(values, block, 7)
    assert sent["values"].equal(pack(units.round() + 8, 4)) and sent["scale"].equal(scale)


def test_nf4_sends_the_nearest_level():
    from atlas_cli.wire.codecs.nf4 import LEVELS

    levels = torch.tensor(LEVELS)
    values = torch.cat([torch.rand(4000, generator=GENERATOR) * 2 - 1, levels, torch.tensor([1.0])]).view(1, 1, -1)
    found = codecs.decoded(make("nf4", block=None), values)
    nearest = (values.unsqueeze(-1) - levels).abs().amin(-1)
    assert (found - values).abs().allclose(nearest, atol=1e-7)


def test_top_k_keeps_the_largest_features_and_loses_no_more_than_the_others():
    values = torch.randn(4, 6, 40, generator=GENERATOR)
    found, k = codecs.decoded(make("top-k", share=0.25), values), 10
    assert ((found != 0).sum(-1) == k).all() and found[found != 0].equal(values[found != 0])
    least, most = torch.where(found != 0, values.abs(), 9).amin(-1), torch.where(found == 0, values.abs(), 0).amax(-1)
    assert (least >= most).all()
    assert ((found - values).norm(dim=-1) <= (1 - k / 40) ** 0.5 * values.norm(dim=-1)).all()
    assert codecs.decoded(make("top-k", share=1.0), values).equal(values)
    assert codecs.decoded(make("random-top-k", share=0.25, alpha=0.0), values).equal(found)


def test_random_top_k_gives_so_many_places_to_other_features_each_as_likely():
    values = torch.arange(1.0, 41).flip(0).expand(100, 50, 40)  # the first 8 are the largest
    found = codecs.decoded(make("random-top-k", share=0.2, alpha=0.25), values) != 0
    assert (found.sum(-1) == 8).all()
    often = found.double().mean((0, 1))
    assert often[:8].sub(0.75).abs().max() < 0.03 and often[8:].sub(8 * 0.25 / 32).abs().max() < 0.02


def test_low_rank_is_the_nearest_product_of_its_rank_and_its_rounding_has_no_bias():
    draw = torch.Generator().manual_seed(3)
    for tokens, width in ((12, 30), (30, 12)):
        exact = torch.randn(2, tokens, 3, generator=draw) @ torch.randn(2, 3, width, generator=draw) * 1e-20
        codec = make("low-rank", rank=3, bits=8)
        assert (codecs.decoded(codec, exact) - exact).norm() < 0.02 * exact.norm()
        values = torch.randn(2, tokens, width, generator=draw)
        many = [codec.decode(codec.encode(values, draw), width) for _ in range(200)]
        U, S, V = torch.linalg.svd(values, full_matrices=False)
        nearest = (U[..., :3] * S[:, None, :3]) @ V[:, :3]
        one, mean = (float((each - nearest).norm() / nearest.norm()) for each in (many[0], sum(many) / 200))
        assert mean < 0.2 * one < 0.01


def test_vector_quantisation_finds_the_vectors_of_a_message_that_has_few():
    few = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])
    values = few[torch.randint(0, 3, (2, 5, 4), generator=GENERATOR)].flatten(-2)
    assert codecs.decoded(make("vector-quantised", pieces=4, levels=32), values).allclose(values, atol=1e-6)
    coarse = codecs.decoded(make("vector-quantised", pieces=4, levels=2), values)
    assert (coarse - values).norm() < (values - values.mean()).norm()


def test_many_vectors_are_searched_in_little_memory():
    """For the nearest of each piece, over the pieces of several looks."""
    values, levels = torch.randn(2, 12, 768, generator=GENERATOR), 2048
    codec = make("vector-quantised", levels=levels)
    with LiveBytes([values]) as live:
        parts = codec.encode(values, GENERATOR)
    pieces, vectors = values.view(-1, 8), parts["vectors"]
    assert live.peak < 4 * DISTANCES + 8 * pieces.nbytes + 4 * vectors.nbytes < 4 * len(pieces) * levels
    off = (codec.decode(parts, 768).view(-1, 8) - pieces).norm(dim=1)
    nearest = torch.cdist(pieces, vectors, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    torch.testing.assert_close(off, nearest, atol=2e-3, rtol=0)


def test_more_vectors_more_pieces_and_more_steps_take_longer_on_the_virtual_clock():
    def encoding(**options):
        wire = WireConfig(activations=CodecConfig(codec="vector-quantised", options=options))
        return StepCodecs.of(wire, 768, torch.float32, torch.float32, 0).flops("activations")[0]

    assert encoding() == 4000
    assert encoding(levels=256) == pytest.approx(7.75 * encoding(), rel=0.01)  # measured: 7.6
    assert encoding(pieces=192) == 2 * encoding() == 5 * encoding(pieces=192, iterations=0)


# SplitLite (2608.23018), table 1: d, uplink and total in per cent of 16-bit numbers; rank 16, 128 tokens
PUBLISHED = {
    "Qwen2.5-1.5B": (1536, 6.77, 16.9),
    "Qwen2.5-3B": (2048, 6.64, 16.6),
    "Gemma-3-1B": (1152, 6.94, 17.4),
    "Llama-3.2-3B": (3072, 6.51, 16.3),
}


@pytest.mark.parametrize(("width", "up", "total"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_shares_of_bytes_are_met_by_the_closed_forms(width, up, total):
    shape = (1, 128, width)
    whole = 2 * 128 * width

    def share(name, without=(), **options):
        layout = make(name, **options).layout(shape, torch.bfloat16)
        return 100 * sum(part.bytes for key, part in layout.items() if key not in without) / whole

    sent, back = (share("low-rank", ["scales"], **each) for each in ({"rank": 32}, {"rank": 64, "bits": 8}))
    assert sent == pytest.approx(up, abs=0.005) and (sent + back) / 2 == pytest.approx(total, abs=0.05)
    assert share("low-rank", rank=32) < up + 0.1  # with the scales, which the table leaves out
    assert share("int4", ["scale"]) == 25 and (25 + share("int8", ["scale"])) / 2 == 37.5  # as AQ-SGD counts
    k, bits = int(0.3 * width), (width - 1).bit_length()
    entropy = 100 * k * (16 + bits) / (16 * width)
    assert round(entropy, 1) == {1536: 50.5, 2048: 50.6, 1152: 50.5, 3072: 52.5}[width]  # "50.5 to 52.5"
    assert 0 <= share("random-top-k", share=0.3) - entropy < 100 / (2 * width)  # less than a byte a token


def step_codecs(seed=0, **kinds):
    wire = WireConfig(**{kind: CodecConfig(codec=name) for kind, name in kinds.items()})
    return StepCodecs.of(wire, 6, torch.float32, torch.float32, seed)


def test_a_message_without_a_codec_is_sent_as_it_is():
    wire = step_codecs(gradients="int8")
    message = Activations("a", torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1]))
    assert wire.encode(message, (1, 0)) is message and wire.decode(message) is message
    assert step_codecs(activations="none").encode(message, (1, 0)) is message


def test_an_encoded_message_is_read_back_from_its_tensors():
    wire, message = step_codecs(activations="int4"), Activations("a", torch.randn(2, 3, 6), None, torch.tensor([0, 1]))
    sent = wire.encode(message, (1, 0))
    assert set(sent.tensors) == {"activations", "activations_scale", "labels"}
    assert sent.tensors["activations"].dtype == torch.uint8 and sent.tensors["activations"].shape == (2, 3, 3)
    read = Activations.of("a", sent.tensors)
    assert wire.decode(read).activations.equal(wire.decode(sent).activations) and read.labels.equal(message.labels)
    assert wire.blank(message).bytes == sent.bytes
    assert sent.payload_bytes - message.labels.nbytes == wire.payload_bytes("activations", 2, 3)
    with pytest.raises(TypeError, match="odd"):
        Activations.of("a", {**sent.tensors, "odd": torch.ones(1)})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_refused_before_a_codec_hides_it(value):
    gradients = torch.randn(2, 3, 6)
    gradients[1, 2, 3] = value
    with pytest.raises(NonFiniteError, match="client a, round 2, step 5"):
        step_codecs(gradients="int4").encode(Gradients("a", gradients), (2, 5))


def test_what_decodes_to_numbers_that_are_not_finite_is_refused():
    """Finite before, but a product of factors is larger than they are."""
    with pytest.raises(
        NonFiniteError, match=r"client a, round 2, step 5 are not finite as .*; the largest was 3.4e\+38"
    ):
        step_codecs(gradients="low-rank").encode(Gradients("a", torch.full((2, 3, 6), 3.4e38)), (2, 5))


def test_changes_are_of_texts_without_padding_where_there_is_no_mask():
    """A message without a new text, and one with a new text beside one that was sent before."""
    wire, draw = step_codecs(activations="delta"), torch.Generator().manual_seed(0)
    for texts in ([3, 7], [7, 3], [3, 9]):
        values = torch.randn(2, 3, 6, generator=draw)
        sent = wire.encode(wire.number(Activations("a", values), texts), (1, 0))
        assert (wire.decode(sent).activations - values).abs().max() < 0.6
    assert wire.memory.tokens == 3 * 3


def test_features_and_their_gradients_have_the_codecs_of_activations_and_gradients_unless_they_have_their_own():
    codecs_of = {
        kind: type(codec).__module__ for kind, codec in step_codecs(activations="int8", gradients="nf4").codecs.items()
    }
    assert codecs_of["features"] == codecs_of["activations"] != codecs_of["feature-gradients"] == codecs_of["gradients"]
    own = step_codecs(activations="int8", gradients="nf4", features="none", feature_gradients="bfloat16").codecs
    assert "features" not in own and type(own["feature-gradients"]).__module__.endswith("bfloat16")
