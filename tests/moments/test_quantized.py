"""Averages of few bits: the nearest code, whatever the piece it lies in, and the steps of the reference optimizers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from few_bits import content, draw, empty, on_the_grid_of_the_reference, slot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import metrize
from metrize import Adam4bit, Adam8bit, Dense, Quantized, Split
from metrize.memory import KNOWN, predict
from metrize.moments import Cut, Slot, boxes
from metrize.moments.quantized_codes import CodeBook, code_book, numbers_of

BOOKS = [("dynamic", 8), ("dynamic", 4), ("linear", 8), ("linear", 4), ("float8", 8)]
books = pytest.mark.parametrize(("kind", "bits"), BOOKS)
signs = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
storages = pytest.mark.parametrize(
    "storage",
    [Quantized(smallest=0, block=64), Quantized(4, 64, smallest=0), Quantized(map="float8", smallest=0)],
    ids=str,
)


def round_trip(storage: Quantized, of: Slot, value: Tensor) -> Tensor:
    state = empty(storage, of, len(value))
    storage.write(of, state, value)
    return storage.read(of, state)


def codes_of(book: CodeBook, ratio: Tensor) -> Tensor:
    """One code for each number."""
    found = book.nearest(ratio.clone()).to(torch.uint8)
    return found if book.bits == 8 else torch.stack([found & 15, found >> 4], -1).flatten(-2)


# Maps and codes


def test_maps_of_the_references():
    known = content("adam8bit_bitsandbytes")["dynamic_map"], content("adam_lowbit_torchao")
    pairs = [
        (numbers_of("dynamic", 8, True), known[0]["signed"]),
        (numbers_of("dynamic", 8, False), known[0]["unsigned"]),
        (numbers_of("dynamic", 4, True), known[1]["qmap4_signed"]),
        (numbers_of("linear", 4, False), known[1]["qmap4_unsigned"]),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=1e-6, atol=1e-13)


@books
@signs
def test_a_map_is_sorted_and_reaches_to_one(kind, bits, signed):
    numbers = numbers_of(kind, bits, signed)
    assert len(numbers) <= 2**bits
    assert bool((numbers.diff() > 0).all())
    assert float(numbers[-1]) == 1
    assert (float(numbers[0]) < 0) == signed
    assert bool((numbers == 0).any()) == (signed or kind != "linear")


def test_numbers_of_float8_are_those_of_the_format():
    numbers = numbers_of("float8", 8, True) * 448
    assert torch.equal(numbers.to(torch.float8_e4m3fn).double(), numbers)
    assert len(numbers) == 253


@books
@signs
def test_the_code_is_that_of_the_nearest_number(kind, bits, signed):
    """Also one float beside every midpoint, at both ends of every cell of the table, and for numbers without a size."""
    numbers = numbers_of(kind, bits, signed)
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    ends = torch.arange(2**14, dtype=torch.int32) << 16
    found = torch.cat(
        [middles, numbers.float(), *(torch.nextafter(middles, torch.tensor(to)) for to in (-2.0, 2.0)), draw(2**16)]
        + [pattern.view(torch.float32) for pattern in (ends, ends | 0xFFFF)]
    )
    found = torch.cat([found, -found, torch.tensor([0.0, -0.0, 1.0, -1.0])]).clamp(-1, 1)
    found = found if signed else found.abs()
    found = torch.cat([found, found[: len(found) % 2]])
    book = code_book(kind, bits, signed, torch.float32, torch.device("cpu"))
    low, high = torch.searchsorted(middles, found), torch.searchsorted(middles, found, right=True)
    assert torch.equal(codes_of(book, found).long(), torch.where(found < 0, low, high))  # away from 0 where equal


@books
@signs
@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(found=st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2))
def test_no_number_is_nearer_than_the_one_of_the_code(kind, bits, signed, found):
    ratio = torch.tensor(found) if signed else torch.tensor(found).abs()
    numbers = numbers_of(kind, bits, signed)
    book = code_book(kind, bits, signed, torch.float32, torch.device("cpu"))
    error = (numbers[codes_of(book, ratio).long()] - ratio).abs()
    least = (numbers - ratio.unsqueeze(1)).abs().amin(1)
    torch.testing.assert_close(error, least, rtol=1e-6, atol=1e-8)  # midpoints are float32


@pytest.mark.parametrize(
    "case", content("adam8bit_bitsandbytes")["quantize_roundtrip"], ids=lambda c: f"{c['n']}-{c['signed']}"
)
def test_codes_of_the_reference(case, monkeypatch):
    on_the_grid_of_the_reference(monkeypatch)
    storage = Quantized(block=case["blocksize"], smallest=0)
    of = slot((case["n"],), "linear" if case["signed"] else "square")
    state = empty(storage, of)
    storage.write(of, state, torch.tensor([case["x"]]))
    assert state["a.code"][0].tolist() == case["codes"]
    assert torch.equal(state["a.scale"][0], torch.tensor(case["absmax"]))
    torch.testing.assert_close(storage.read(of, state)[0], torch.tensor(case["dequantized"]), rtol=1e-6, atol=1e-12)


# Storage


@storages
@pytest.mark.parametrize("kind", ["linear", "square"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (64,), (5, 13), (3, 4, 5, 7), (2, 0, 3)], ids=str)
def test_what_is_read_is_near_what_was_written(storage, kind, shape):
    of, value = slot(shape, kind), draw(3, *shape)
    value = value.square() if kind == "square" else value
    if not value.numel():
        assert isinstance(storage.of(of.shape, kind), Dense)
        return
    read = round_trip(storage, of, value)
    assert read.shape == value.shape
    numbers = numbers_of(storage.map_of(kind), storage.bits, kind == "linear")
    error_of_one = max(float(numbers.diff().max()) / 2, float(numbers[0]))  # there may be no 0
    rows = torch.nn.functional.pad(value.reshape(3, -1), (0, -math.prod(shape) % storage.block))
    scale = rows.reshape(3, -1, storage.block).abs().amax(2).repeat_interleave(storage.block, 1)
    error = (read - value).reshape(3, -1).abs()
    assert bool((error <= 1.0001 * error_of_one * scale[:, : error.shape[1]]).all())


@storages
def test_sizes_of_every_magnitude_are_kept(storage):
    of, value = slot((64,)), draw(1, 64)
    small = torch.finfo(torch.float32).tiny / value.abs().max()
    for size in (1e-30, 1.0, 1e30, float(small)):
        torch.testing.assert_close(round_trip(storage, of, value * size) / size, round_trip(storage, of, value))


@storages
@pytest.mark.parametrize("kind", ["linear", "square"])
def test_blocks_of_zeros_are_read_as_zeros(storage, kind):
    value = torch.cat([torch.zeros(1, 64), torch.ones(1, 64), torch.zeros(1, 10)], 1)
    read = round_trip(storage, slot((138,), kind), value)
    assert not read[:, :64].any()
    assert bool(read.isfinite().all())
    assert not storage.read(slot((138,), kind), empty(storage, slot((138,), kind))).any()  # before the first step


@storages
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_block_that_is_not_finite_starts_anew_and_no_other_does(storage, bad):
    value = draw(1, 3, 64)
    value[0, 1, 5] = bad
    whole = Quantized(storage.bits, 64, storage.map, smallest=0)
    read = round_trip(whole, slot((3, 64)), value)
    assert not read[0, 1].any()
    assert bool(read.isfinite().all())
    assert torch.equal(read[0, 0], round_trip(whole, slot((64,)), value[:, 0])[0])


@storages
def test_a_stack_is_its_members_one_by_one(storage):
    of, value = slot((9, 11)), draw(4, 9, 11)
    alone = torch.cat([round_trip(storage, of, member.unsqueeze(0)) for member in value])
    assert torch.equal(round_trip(storage, of, value), alone)


def test_float64_keeps_its_scales():
    of = slot((64,), dtype=torch.float64)
    value = draw(1, 64, dtype=torch.float64)
    read = round_trip(Quantized(smallest=0), of, 1e-200 * value)
    assert read.dtype == torch.float64
    torch.testing.assert_close(read * 1e200, round_trip(Quantized(smallest=0), of, value))


@storages
@pytest.mark.parametrize("shape", [(1000,), (600, 25), (7, 128, 3)], ids=str)
def test_a_step_in_pieces_is_the_step_of_the_whole(storage, shape):
    of = slot(shape)
    start, x = draw(1, *shape), draw(1, *shape, seed=1)
    whole, parts = empty(storage, of), empty(storage, of)
    for state in (whole, parts):
        storage.write(of, state, start)
    wanted = storage.update(of, whole, x, 0.9, 0.1)
    for layout in (shape, (math.prod(shape),)):
        state = copy.deepcopy(parts)
        stream, seen = storage.stream(of, state), torch.zeros(1, *layout)
        cuts = boxes(layout, 2 * storage.block, storage.align)
        for cut in cuts:
            cut.of(seen).copy_(stream.update(cut, cut.of(x), 0.9, 0.1))
        assert len(cuts) > 1
        assert torch.equal(seen.reshape(wanted.shape), wanted)
        assert all(torch.equal(state[key], whole[key]) for key in whole)


def test_pieces_begin_with_blocks_and_are_small():
    for shape in ((50_257, 768), (1000, 513), (64, 100, 33), (2**20,), (4096, 11008), (512, 512, 3, 3)):
        cuts = boxes(shape, 2**17, 256)
        assert all(cut.start % 256 == 0 for cut in cuts)
        assert [cut.start for cut in cuts[1:]] == [cut.stop for cut in cuts[:-1]]
        assert max(cut.stop - cut.start for cut in cuts) <= 2**18
    assert boxes((3, 70_001), 1000, 256) == [Cut((3, 70_001))]  # the second row begins within a block


def test_size_and_not_shape_decides_what_is_quantized():
    plain, whole = Quantized(), Quantized(whole_blocks=True)
    for shape, told in (((4095,), (0, 0)), ((4096,), (1, 1)), ((64, 64), (1, 1)), ((4097,), (1, 0)), ((), (0, 0))):
        for storage, quantized in zip((plain, whole), told, strict=True):
            found = storage.of(torch.Size(shape), "linear")
            assert found == (storage if quantized else Dense())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "8 or 4"),
        ({"bits": 4, "map": "float8"}, "8 for 'float8'"),
        ({"bits": 4, "squares": "float8"}, "8 for 'float8'"),
        ({"map": "tree"}, "map is one of"),
        ({"squares": "tree"}, "squares is one of"),
        ({"block": 0}, "block=0"),
        ({"block": -256}, "even number"),
        ({"block": 33}, "even number"),
        ({"smallest": -1}, "smallest=-1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Quantized(**options)


@pytest.mark.parametrize("block", [255.5, "256", None, (256,)], ids=str)
def test_a_block_that_is_no_whole_number_is_refused_by_name(block):
    with pytest.raises(TypeError, match="block is a whole number"):
        Quantized(block=block)
    assert repr(Quantized(block=256.0)) == repr(Quantized(block=256))


# Bytes


@pytest.mark.parametrize("shape", [(), (7,), (4095,), (4096,), (64, 65), (31, 7, 5, 9)], ids=str)
def test_bytes_to_the_last_one(shape):
    n = math.prod(shape)
    kept = {name: predict([shape], method).state - 4 for name, method in (("8", Adam8bit), ("4", Adam4bit))}
    assert kept["8"] == (8 * n if n < 4096 else 2 * n + 8 * math.ceil(n / 256))
    assert kept["4"] == (8 * n if n < 4096 else 2 * math.ceil(n / 2) + 8 * math.ceil(n / 128))


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "LLaMA-70B"])  # which the reference has not
def test_bytes_of_public_models(name):
    """The count of steps, 4 bytes a tensor, is not in the reference."""
    models = content("memory_bytes")["models"]
    reference = next(
        models[key] for key in models if key == name or key.startswith((f"{name} (1000", f"{name} (vocab"))
    )
    steps, shapes = 4 * reference["tensors"], KNOWN[name]()
    assert predict(shapes, Adam8bit).state - steps == reference["adam8bit_bnb"]
    torchao = predict(shapes, lambda params: Adam4bit(params, whole_blocks=True))
    assert torchao.state - steps == reference["adam4bit_torchao"]


def peak(call: Any) -> int:
    """Largest number of bytes of temporaries alive at once in a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    alive = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


@pytest.mark.parametrize("shape", [(2048, 1024), (5, 400_001)], ids=str)
@pytest.mark.parametrize("decay", ["decoupled", "after"])
@pytest.mark.parametrize("recipe", [Adam8bit.recipe(), Adam4bit.recipe()], ids=["8", "4"])
def test_no_temporary_of_a_step_is_as_large_as_the_tensor(recipe, decay, shape):
    p = nn.Parameter(draw(*shape))
    optimizer = metrize.Optimizer([p], recipe.replace(decay=decay), weight_decay=0.1)
    p.grad = draw(*shape, seed=1)
    optimizer.step()
    assert peak(optimizer.step) < 0.5 * 4 * p.numel()


def test_sentences():
    for part in (
        Quantized(),
        Quantized(4, 128, squares="dynamic"),
        Split(Quantized(4), Quantized(signed=True)),
    ):
        assert metrize.parse(repr(part)) == part
        assert metrize.parse(str(part)) == part
