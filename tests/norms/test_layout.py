"""Layouts: which matrices a stored tensor holds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrize.norms import Layout
from metrize.part import parse

EXAMPLES = {
    "linear": (Layout(), (6, 4), [(1, 6, 4)]),
    "experts": (Layout(), (3, 6, 4), [(3, 6, 4)]),
    "experts in groups": (Layout(), (2, 3, 6, 4), [(6, 6, 4)]),
    "embedding": (Layout(transposed=True), (10, 4), [(1, 4, 10)]),
    "experts, inputs first": (Layout(transposed=True), (3, 4, 6), [(3, 6, 4)]),
    "experts below one another": (Layout(block_rows=5), (15, 4), [(3, 5, 4)]),
    "convolution": (Layout(unfold=True), (8, 3, 5, 2), [(1, 8, 30)]),
    "grouped": (Layout(unfold=True, groups=2), (8, 3, 5), [(2, 4, 15)]),
    "depthwise": (Layout(unfold=True, groups=8), (8, 1, 3, 3), [(8, 1, 9)]),
    "transposed convolution": (Layout(unfold=True, transposed=True, groups=2), (6, 4, 3, 3), [(2, 4, 27)]),
    "each offset": (Layout(offsets=True), (8, 3, 5, 2), [(10, 8, 3)]),
    "each offset, grouped": (Layout(offsets=True, groups=2), (8, 3, 5, 2), [(20, 4, 3)]),
    "each offset, transposed": (Layout(offsets=True, transposed=True, groups=2), (6, 4, 5), [(10, 4, 3)]),
    "bilinear": (Layout(unfold=True), (7, 3, 4), [(1, 7, 12)]),
    "sections": (Layout(split=(4, 4, 4)), (12, 5), [(3, 4, 5)]),
    "sections of Conv1D": (Layout(transposed=True, split=(4, 4, 4)), (5, 12), [(3, 4, 5)]),
    "grouped queries": (Layout(split=(8, 2, 2)), (12, 5), [(1, 8, 5), (2, 2, 5)]),
    "grouped queries, heads": (Layout(split=(8, 2, 2), block_rows=2), (12, 5), [(4, 2, 5), (2, 2, 5)]),
    "output gate": (Layout(split=(4, 3, 4)), (11, 5), [(1, 4, 5), (1, 3, 5), (1, 4, 5)]),
    "NeoX": (Layout(split=(1, 1, 1), outer=4, inner=2), (24, 5), [(3, 8, 5)]),
    "NeoX heads": (Layout(split=(1, 1, 1), outer=4, inner=2, block_rows=2), (24, 5), [(12, 2, 5)]),
    "Falcon": (Layout(split=(3, 1, 1), outer=2, inner=2), (20, 5), [(1, 12, 5), (2, 4, 5)]),
    "gate and up": (Layout(split=(6, 6)), (2, 12, 5), [(4, 6, 5)]),
    "gate and up in turn": (Layout(split=(1, 1), outer=6, transposed=True), (2, 5, 12), [(4, 6, 5)]),
    "LSTM": (Layout(split=(3, 3, 3, 3)), (12, 7), [(4, 3, 7)]),
}


def numbered(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("batch", [1, 3])
def test_pieces_have_the_told_shapes_and_assemble_to_the_whole(name, batch):
    layout, shape, expected = EXAMPLES[name]
    layout.check(shape)
    assert layout.matrix_shapes(shape) == expected
    whole = numbered(batch, *shape)
    pieces = layout.pieces(whole)
    assert [(p[0].numel() // p.shape[-2] // p.shape[-1], *p.shape[-2:]) for p in pieces] == expected
    assert all(len(p) == batch for p in pieces)
    assert torch.equal(layout.assemble([p.contiguous() for p in pieces], whole), whole)
    assert torch.equal(layout.assemble([p.mT.contiguous().mT for p in pieces], whole), whole)
    assert parse(repr(layout)) == layout


@pytest.mark.parametrize("name", EXAMPLES)
def test_memory_in_another_order_reads_the_same(name):
    layout, shape, _ = EXAMPLES[name]
    whole = numbered(2, *shape)
    strange = whole.permute(*reversed(range(whole.ndim))).contiguous().permute(*reversed(range(whole.ndim)))
    pieces = layout.pieces(strange)
    for piece, plain in zip(pieces, layout.pieces(whole), strict=True):
        assert torch.equal(piece, plain)
    assert torch.equal(layout.assemble([p.clone() for p in pieces], strange), whole)


def test_rows_go_where_the_figure_says():
    rows = numbered(1, 20, 1)
    queries, rest = Layout(split=(3, 1, 1), outer=2, inner=2).pieces(rows)
    assert queries.flatten().tolist() == [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16]
    assert rest.flatten(2).tolist() == [[[7, 8, 17, 18], [9, 10, 19, 20]]]
    (gate_up,) = Layout(split=(1, 1), outer=3).pieces(numbered(1, 6, 1))
    assert gate_up.flatten(2).tolist() == [[[1, 3, 5], [2, 4, 6]]]


def test_plain_pieces_are_views():
    for name in ["linear", "experts", "embedding", "convolution", "grouped", "each offset", "sections", "LSTM"]:
        layout, shape, _ = EXAMPLES[name]
        whole = torch.zeros(2, *shape)
        for piece in layout.pieces(whole):
            piece.fill_(1)
        assert whole.all(), name


def test_a_whole_piece_is_not_copied_again():
    whole = numbered(2, 6, 4)
    piece = whole.clone().unsqueeze(1)
    assert Layout().assemble([piece], whole).data_ptr() == piece.data_ptr()


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_split_is_undone(data):
    small = st.integers(1, 3)
    split = tuple(data.draw(st.lists(small, min_size=1, max_size=4)))
    outer, inner, inputs = data.draw(small), data.draw(small), data.draw(small)
    block_rows = data.draw(st.sampled_from([0, 1, inner]))
    layout = Layout(split=split, outer=outer, inner=inner, block_rows=block_rows)
    whole = numbered(2, outer * sum(split) * inner, inputs)
    pieces = layout.pieces(whole)
    assert sum(piece.numel() for piece in pieces) == whole.numel()
    assert torch.equal(layout.assemble(pieces, whole), whole)


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        (Layout(), (5,), "two dimensions"),
        (Layout(), (5, 0), "entries"),
        (Layout(unfold=True, groups=3), (8, 2, 3), "no multiple of groups=3"),
        (Layout(split=(4, 4)), (9, 5), "outer .* is 8, and it has 9 outputs"),
        (Layout(split=(4, 4), transposed=True), (8, 5), "is 8, and it has 5 outputs"),
        (Layout(split=(4, 2), block_rows=4), (6, 5), "block_rows=4"),
        (Layout(block_rows=4), (6, 5), "block_rows=4"),
        (Layout(split=(2,), unfold=True, groups=2), (8, 5, 3), "has 4 outputs"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(layout, shape, words):
    with pytest.raises(ValueError, match=words) as error:
        layout.check(shape)
    assert str(shape) in str(error.value)
    with pytest.raises(ValueError, match=words):
        layout.matrix_shapes(shape)


@pytest.mark.parametrize(
    "arguments",
    [
        {"unfold": True, "offsets": True},
        {"groups": 2},
        {"outer": 2},
        {"inner": 3},
        {"split": (2, 0)},
        {"unfold": True, "groups": 0},
        {"split": (1,), "outer": 0},
        {"block_rows": -1},
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments):
    with pytest.raises(ValueError, match="Layout"):
        Layout(**arguments)


def test_the_kernel_is_counted():
    assert Layout().kernel((8, 3, 5)) == 1
    assert Layout(unfold=True).kernel((8, 3, 5, 2)) == 10
    assert Layout(offsets=True).kernel((8, 3)) == 1
