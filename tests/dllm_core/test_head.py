"""The head's cross-entropy: PyTorch's own losses and gradients, in chunks that never hold the logits of all rows."""

import pytest
import torch
import torch.nn.functional as F

from dllm.core.head import BLOCK_ROWS, CHUNK_ROWS, _CrossEntropy, head_losses, num_chunks
from oracles.batches import spy
from oracles.models import HIDDEN, MASK, tiny_model

ROWS = 16 * BLOCK_ROWS["cpu"] + 5  # more than one block of rows, the last one partial


def random_rows(model, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, ids that may be written, and the weights of their losses."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, HIDDEN, generator=generator).to(model.dtype).requires_grad_()
    ids = torch.randint(0, MASK, (rows,), generator=generator)
    return hidden, ids, torch.rand(rows, generator=generator).to(torch.promote_types(model.dtype, torch.float32))


def gradients(model, hidden, losses, weights) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.autograd.grad((losses * weights).sum(), (hidden, model.lm_head.weight))


@pytest.mark.parametrize("chunks", [1, 2, 3, 7, ROWS + 3])
def test_losses_and_gradients_are_those_of_pytorch(chunks):
    model = tiny_model("block")
    hidden, ids, weights = random_rows(model)
    expected = F.cross_entropy(model.logits(hidden), ids, reduction="none")
    losses = head_losses(model, hidden, ids, chunks)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(
        gradients(model, hidden, losses, weights), gradients(model, hidden, expected, weights), strict=True
    ):
        assert wanted.abs().max() > 1e-2
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_bf16_model_has_losses_and_softmax_in_fp32(chunks):
    model = tiny_model("block", torch.bfloat16)
    hidden, ids, weights = random_rows(model)
    expected = F.cross_entropy(model.logits(hidden).float(), ids, reduction="none")
    losses = head_losses(model, hidden, ids, chunks)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    got, wanted = (gradients(model, hidden, each, weights)[0] for each in (losses, expected))
    torch.testing.assert_close(got, wanted, rtol=0, atol=2**-7 * wanted.abs().max().item())


def test_in_bf16_an_almost_certain_id_keeps_its_gradient():
    """Its probability is stored as 1, which would leave no gradient."""
    logits = torch.zeros(1, 100, dtype=torch.bfloat16)
    logits[0, 7] = 12
    probability = logits[0].double().softmax(0)[7].item()
    assert torch.tensor(probability).bfloat16() == 1
    logits.requires_grad_()
    _CrossEntropy.apply(logits.clone(), torch.tensor([7])).sum().backward()
    assert logits.grad[0, 7].item() == pytest.approx(probability - 1, rel=2**-8)


def test_ids_that_cannot_be_written_get_no_gradient():
    model = tiny_model("block")
    hidden, ids, weights = random_rows(model)
    gradient = gradients(model, hidden, head_losses(model, hidden, ids), weights)[1]
    excluded = [MASK, *range(model.config.num_tokens, model.config.vocab_size)]
    assert len(excluded) > 1
    assert (gradient[excluded] == 0).all() and (gradient.abs().sum(1) > 0).sum() == len(gradient) - len(excluded)


@pytest.mark.parametrize("rows", [0, 1, 5, 40])
def test_every_rank_calls_the_head_equally_often(rows, monkeypatch):
    """In the backward pass too, however many rows it has: some chunks are empty."""
    model = tiny_model("block")
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    hidden, ids, weights = random_rows(model, rows)
    gradients(model, hidden, head_losses(model, hidden, ids, chunks=8), weights)
    assert len(calls) == 16


def test_in_chunks_the_logits_of_all_rows_never_exist():
    model = tiny_model("block")
    hidden, ids, weights = random_rows(model)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        heads = spy(model, "logits")
        losses = head_losses(model, hidden, ids, chunks=4)
    assert [len(call[0]) for call in heads] == [34, 33, 33, 33]
    assert not [shape for shape in kept if len(shape) == 2 and shape[1] == model.config.vocab_size]
    gradients(model, hidden, losses, weights)
    assert max(len(call[0]) for call in heads) == 34


def test_the_number_of_chunks():
    assert [num_chunks(rows) for rows in (0, 1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS)] == [1, 1, 1, 2, 3]


def test_a_second_backward_pass_is_refused():
    """The first has written the gradient over the logits."""
    model = tiny_model("block")
    hidden, ids, weights = random_rows(model)
    loss = (head_losses(model, hidden, ids) * weights).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
