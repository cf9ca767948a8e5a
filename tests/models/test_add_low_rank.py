"""What adapters add to rows of a layer's output: that of the formula as it is written, for all shapes and ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.models.adapters.add_low_rank import Span, add_low_rank

SPANS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20), st.floats(0.1, 4)), min_size=1, max_size=4)


def written(output, x, spans, factors):
    """``output + s B A x``, a span after another."""
    parts = zip(spans, factors[::2], factors[1::2], strict=True)
    added = [span.scale * x[0, span.first : span.last] @ A.T @ B.T for span, A, B in parts]
    return output + torch.cat(added)


@settings(max_examples=60, deadline=None)
@given(spans=SPANS, d_in=st.integers(1, 24), d_out=st.integers(1, 24), parts=st.sampled_from(["AB", "A", "B"]))
def test_sum_and_gradients_are_those_of_the_formula(spans, d_in, d_out, parts):
    drawn = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=drawn, dtype=torch.float64, requires_grad=True)

    placed, factors, rows = [], [], 0
    for count, rank, scale in spans:
        placed.append(Span(rows, rows + count, scale))
        factors += [draw(rank, d_in), draw(d_out, rank)]
        rows += count
    for i, factor in enumerate(factors):
        factor.requires_grad_("AB"[i % 2] in parts)
    output, x, gradient = draw(1, rows, d_out), draw(1, rows, d_in), draw(1, rows, d_out).detach()
    wanted = [output, x, *(factor for factor in factors if factor.requires_grad)]
    ours, theirs = (way(output, x, placed, factors) for way in (add_low_rank, written))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad(y, wanted, gradient) for y in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert one.is_contiguous()  # as parameters are: optimizers take such gradients as they are
