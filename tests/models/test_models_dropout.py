"""Our own dropout on the CPU: share, expectation, gradient, and the attention it is part of."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from fusar_klip.models.network.dropout import attention, dropout


@given(share=st.floats(0.01, 0.9), rows=st.integers(1, 5), columns=st.integers(1, 7))
def test_what_is_kept_is_scaled_and_what_is_dropped_has_no_gradient(
    share: float, rows: int, columns: int
) -> None:
    values = torch.ones(rows, columns, requires_grad=True)
    dropped = dropout(values, share, training=True)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert dropped.shape == values.shape
    torch.testing.assert_close(values.grad, dropped.detach())
    scale = dropped.detach()[dropped.detach() > 0]
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (1 - share)), rtol=2e-4, atol=0)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_and_the_mean_are_right(share: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1_000_003), share, training=True)
    assert (dropped == 0).double().mean() == pytest.approx(share, abs=4 * (share / 1e6) ** 0.5)
    assert dropped.double().mean() == pytest.approx(1, abs=0.005)


def test_neighbours_and_calls_are_dropped_independently() -> None:
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(400_000), 0.5, training=True) > 0 for _ in range(2))
    # The four values of one draw, and two draws.
    for other in (first.roll(1), first.roll(2), first.roll(3), first.roll(4), second):
        assert (first & other).double().mean() == pytest.approx(0.25, abs=0.005)


def test_the_seed_decides() -> None:
    values = torch.ones(100)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(dropout(values, 0.3, training=True))
    assert torch.equal(*drawn)


def test_nothing_is_dropped_outside_of_training() -> None:
    values = torch.randn(10)
    assert torch.equal(dropout(values, 0.5, training=False), values)
    assert torch.equal(dropout(values, 0.0, training=True), values)


@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, False), (False, True)])
def test_attention_is_torchs_but_for_what_is_dropped(masked: bool, causal: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()[:, None, None] if masked else None
    # So small a share drops nothing of 150 weights with this seed, but takes our own way.
    ours = attention(query, key, value, mask=mask, causal=causal, share=2e-5)
    torchs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


def test_attention_drops_weights() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2000, 4), torch.zeros(1, 1, 100, 4)
    output = attention(query, key, torch.ones(1, 1, 100, 4), mask=None, causal=False, share=0.2)
    # An output is the mean of 100 weights, dropped or scaled: its spread is sqrt(share / (1 - share) / 100).
    assert output[..., 0].mean().item() == pytest.approx(1, abs=0.005)
    assert output[..., 0].std().item() == pytest.approx(0.05, rel=0.1)


def test_a_text_without_tokens_gives_numbers() -> None:
    query, key, value = (torch.randn(1, 1, 3, 4) for _ in range(3))
    mask = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    assert attention(query, key, value, mask=mask, causal=False, share=0.1).isfinite().all()


def test_checkpointing_draws_the_same_again() -> None:
    values = torch.ones(1000, requires_grad=True)
    torch.manual_seed(0)
    dropped = checkpoint(lambda x: dropout(x, 0.5, training=True), values, use_reentrant=False)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach())
