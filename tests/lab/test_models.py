"""The models of the lab against their definitions, written out the slow way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metrize.lab.data import stream
from metrize.lab.models import GPT, VisionTransformer, relative_error


def vit(**options: object) -> VisionTransformer:
    return VisionTransformer(**options, generator=stream(0, "weights"))  # type: ignore[arg-type]


def gpt(**options: object) -> GPT:
    small = {"width": 16, "layers": 2, "heads": 2, "context": 12}
    return GPT(**{**small, **options}, generator=stream(0, "weights"))  # type: ignore[arg-type]


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 28, 28, generator=stream(0, "images"))


def paper_logits(model: VisionTransformer, image: Tensor, skip: bool) -> Tensor:
    """arXiv:2305.16901 for one image, tokens as columns, head by head."""
    tiles = [image[7 * row : 7 * row + 7, 7 * column : 7 * column + 7] for row in range(4) for column in range(4)]
    x = torch.stack([tile.flatten() for tile in tiles], dim=1)
    for block in model.blocks:
        matrices = block.qkv.weight.view(3, 7, 7, 49)
        heads = []
        for head in range(7):
            # the paper normalises over the rows of (P_Q x)^T (P_K x): its P_K is what is called query everywhere else
            p_k, p_q, p_v = matrices[:, head]
            heads.append(p_v @ x @ torch.softmax((p_q @ x).T @ (p_k @ x) / 49**0.5, dim=0))
        x = torch.cat(heads) + (x if skip else 0)
        x = x + torch.tanh(block.feed.weight @ x + block.feed.bias[:, None])
    return model.classifier.weight @ x[:, -1]


def test_the_paper_s_transformer_has_the_paper_s_size() -> None:
    assert sum(weight.numel() for weight in vit().parameters()) == 154_938
    assert sum(module.weight.numel() for module, *_ in vit().constrained()) == 115_248


@pytest.mark.parametrize("skip", [False, True])
def test_the_transformer_is_the_paper_s(skip: bool) -> None:
    model = vit(layers=3, skip=skip).double()
    with torch.no_grad():
        for block in model.blocks:
            block.feed.bias.normal_(generator=stream(0, "bias"))
    batch = images().double()
    expected = torch.stack([paper_logits(model, image, skip) for image in batch])
    torch.testing.assert_close(model(batch), expected, rtol=1e-10, atol=1e-12)


def test_qkv_stacks_the_heads_matrices_drawn_one_by_one() -> None:
    model = vit(layers=2)
    assert [(module.weight.shape, name, blocks) for module, name, blocks in model.constrained()] == [
        ((147, 49), "weight", 21)
    ] * 2
    bound = (6 / (7 + 49)) ** 0.5  # Glorot for a matrix of 7x49, not for the stack of 147x49
    assert 0.98 * bound < model.constrained()[0].module.weight.abs().max() <= bound


def test_a_constant_prediction_has_the_loss_of_the_paper_s_plateau() -> None:
    labels = torch.arange(10)
    constant = torch.zeros(10, 10).index_fill(1, torch.tensor([3]), 100.0)
    assert relative_error(constant, labels).item() == pytest.approx(1.8**0.5)
    assert relative_error(100.0 * torch.eye(10), labels).item() == 0
    uniform = relative_error(torch.zeros(10, 10), labels)
    assert uniform.item() == pytest.approx(0.9**0.5)


def test_cross_entropy_can_be_chosen() -> None:
    labels = torch.arange(10)
    assert vit(layers=1, loss="cross-entropy").loss(torch.zeros(10, 10), labels).item() == pytest.approx(2.302585)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 6}, "heads 6"), ({"patch": 5}, "patch 5"), ({"loss": "l1"}, "known: relative, cross-entropy")],
)
def test_transformers_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vit(**options)


@pytest.mark.parametrize("make", [vit, gpt])
def test_weights_come_from_the_given_generator_alone(make: type[VisionTransformer]) -> None:
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), make(layers=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = make(layers=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(weight.isfinite().all() for weight in first.values())


def test_gpt_sees_no_future() -> None:
    model, tokens = gpt(), torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 7] = 99
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7])
    assert (after[:, 7:] - before[:, 7:]).abs().amax(-1).min() > 1e-6


def test_gpt_knows_the_order_of_the_past() -> None:
    model = gpt(layers=1)  # a second causal layer could tell the order without positions
    swapped = model(torch.tensor([[5, 9, 1]]))[0, -1] - model(torch.tensor([[9, 5, 1]]))[0, -1]
    assert swapped.abs().max() > 1e-6


def test_gpt_ties_its_head_only_if_asked() -> None:
    tied, untied = gpt(), gpt(tied=False)
    assert tied.head.weight is tied.embedding.weight
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 256 * 16


def test_gpt_starts_near_the_uniform_guess() -> None:
    model = GPT(generator=stream(0, "weights"), tied=False)
    tokens = torch.randint(256, (4, 65), generator=stream(0, "tokens"))
    assert model.loss(model(tokens[:, :-1]), tokens[:, 1:]).item() == pytest.approx(5.545, abs=0.1)
    assert [(module.weight.shape, blocks) for module, _, blocks in model.constrained()] == [((384, 128), 12)] * 4
