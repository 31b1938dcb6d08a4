"""The data of the lab: real, split once and for all, and a pure function of seed and step."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metrize.lab.data import Samples, fetch_mnist, load_digits, load_mnist, load_text, mnist, stream

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(scope="module")
def digits() -> Samples:
    pytest.importorskip("sklearn")
    return load_digits()


def idx(*sizes: int) -> bytes:
    count = torch.Size(sizes).numel()
    return struct.pack(f">{1 + len(sizes)}I", 0x0800 + len(sizes), *sizes) + bytes(i % 10 for i in range(count))


@pytest.fixture
def mnist_files() -> dict[str, bytes]:
    return dict(zip(NAMES, (idx(6, 28, 28), idx(6), idx(3, 28, 28), idx(3)), strict=True))


@pytest.fixture
def mnist_root(tmp_path: Path, mnist_files: dict[str, bytes]) -> Path:
    for name, content in mnist_files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_streams_depend_on_every_part_of_their_key() -> None:
    draws = [torch.rand(3, generator=stream(*key)) for key in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 1))]
    assert all(not torch.equal(x, y) for i, x in enumerate(draws) for y in draws[:i])
    assert torch.equal(draws[0], torch.rand(3, generator=stream(0, "a")))


def test_digits_are_all_there_in_the_unit_interval(digits: Samples) -> None:
    images, labels = digits.held_out
    assert len(digits.targets) + len(labels) == 1797
    assert digits.inputs.shape[1:] == images.shape[1:] == (28, 28)
    assert digits.inputs.min() == 0
    assert digits.inputs.max() == 1


def test_digits_hold_out_a_fifth_of_every_class(digits: Samples) -> None:
    held_out, train = digits.held_out[1].bincount(), digits.targets.bincount()
    assert (held_out / (held_out + train) - 0.2).abs().max() < 0.005


def test_digits_split_is_always_the_same(digits: Samples) -> None:
    torch.manual_seed(1)
    assert torch.equal(load_digits().held_out[0], digits.held_out[0])


def test_small_digits_are_the_ones_that_were_enlarged(digits: Samples) -> None:
    small = load_digits(8)
    assert torch.equal(small.targets, digits.targets)
    assert torch.equal(small.inputs * 16, (small.inputs * 16).round())
    torch.testing.assert_close(small.inputs.mean((1, 2)), digits.inputs.mean((1, 2)), atol=0.05, rtol=0)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"metrize\[data\]"):
        load_digits()


def numbered(count: int) -> Samples:
    images = torch.arange(count)[:, None, None].expand(count, 28, 28).float()
    return Samples(images, torch.arange(count), (images, torch.arange(count)))


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order() -> None:
    data = numbered(12)
    first, second = (torch.cat([data.batch(0, step, 4)[1] for step in steps]) for steps in (range(3), range(3, 6)))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert not torch.equal(first, second)


def test_image_batches_are_a_function_of_seed_and_step() -> None:
    data = numbered(100)
    images, labels = data.batch(0, 57, 10)
    data.batch(3, 1, 10)
    assert torch.equal(data.batch(0, 57, 10)[1], labels)
    assert torch.equal(images[:, 0, 0].long(), labels)
    assert not torch.equal(data.batch(1, 57, 10)[1], labels)


@pytest.mark.parametrize("size", [0, 13])
def test_batch_sizes_that_the_data_cannot_fill_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"12 training samples, not {size}"):
        numbered(12).batch(0, 0, size)


def test_mnist_reads_images_and_labels(mnist_root: Path) -> None:
    data = load_mnist(mnist_root)
    assert data.inputs.shape == (6, 28, 28)
    assert data.held_out[0].shape == (3, 28, 28)
    assert data.targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.inputs[0, 0, :3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])


def test_mnist_reads_compressed_files_with_a_dot_in_their_name(tmp_path: Path, mnist_files: dict[str, bytes]) -> None:
    for name, content in mnist_files.items():
        (tmp_path / f"{name.replace('-idx', '.idx')}.gz").write_bytes(gzip.compress(content))
    assert load_mnist(tmp_path).targets.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_mnist_file_is_named_with_the_folder_and_the_remedy(mnist_root: Path, name: str) -> None:
    (mnist_root / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(mnist_root)
    message = str(caught.value)
    for part in (name, name.replace("-idx", ".idx") + ".gz", str(mnist_root), "metrize data mnist --data-root"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (NAMES[0], idx(6, 28, 28)[:-1], "bytes where its header promises"),
        (NAMES[0], idx(6, 28, 28) + b"\0", "bytes where its header promises"),
        (NAMES[0], idx(6, 8, 8), "8x8, not 28x28"),
        (NAMES[1], idx(6, 28, 28), "magic number is 2051, not 2049"),
        (NAMES[1], idx(5), "5 labels for the 6 images"),
        (NAMES[2], b"\x00", "magic number"),
    ],
)
def test_a_damaged_mnist_file_is_named(mnist_root: Path, name: str, content: bytes, reason: str) -> None:
    (mnist_root / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: .*{reason}.*metrize data mnist"):
        load_mnist(mnist_root)


def test_a_cut_compressed_file_is_named(mnist_root: Path, mnist_files: dict[str, bytes]) -> None:
    (mnist_root / NAMES[0]).unlink()
    (mnist_root / f"{NAMES[0]}.gz").write_bytes(gzip.compress(mnist_files[NAMES[0]])[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged: it does not unpack"):
        load_mnist(mnist_root)


@pytest.fixture
def openml(mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in the place of OpenML's data set, whose labels are texts."""
    datasets = pytest.importorskip("sklearn.datasets")
    arrays = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in mnist_files.values()]
    pixels = torch.cat([arrays[0][16:], arrays[2][16:]]).view(9, 784).double().numpy()
    target = [str(int(label)) for label in torch.cat([arrays[1][8:], arrays[3][8:]])]
    monkeypatch.setattr(datasets, "fetch_openml", lambda *_, **__: SimpleNamespace(data=pixels, target=target))
    monkeypatch.setattr(mnist, "_TRAINING", 6)


@pytest.mark.usefixtures("openml")
def test_fetching_leaves_only_the_verified_files(
    tmp_path: Path, mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in mnist_files.items()}
    monkeypatch.setattr(mnist, "_SHA256", hashes)
    root = tmp_path / "new"
    assert fetch_mnist(root) == [root / name for name in hashes]
    assert {path.name: path.read_bytes() for path in root.iterdir()} == mnist_files
    assert load_mnist(root).targets.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("openml")
def test_fetching_refuses_files_that_are_not_mnist(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="is not the MNIST file of that name"):
        fetch_mnist(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fetching_without_an_answer_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(pytest.importorskip("sklearn.datasets"), "fetch_openml", refuse)
    with pytest.raises(RuntimeError, match="no route to host; put the files train-images-idx3-ubyte"):
        fetch_mnist(tmp_path)


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    file = tmp_path / "text"
    file.write_bytes(bytes(i % 251 for i in range(2000)))
    return file


def test_text_targets_are_the_inputs_one_byte_later(counting: Path) -> None:
    inputs, targets = load_text(counting, context=16).batch(0, 3, 8)
    assert inputs.shape == targets.shape == (8, 16)
    assert torch.equal((inputs + 1) % 251, targets)


def test_text_batches_are_a_function_of_seed_and_step(counting: Path) -> None:
    text = load_text(counting, context=16)
    inputs = text.batch(0, 3, 8)[0]
    assert torch.equal(text.batch(0, 3, 8)[0], inputs)
    assert not torch.equal(text.batch(0, 4, 8)[0], inputs)
    assert not torch.equal(text.batch(1, 3, 8)[0], inputs)


def test_text_holds_out_its_last_tenth(counting: Path) -> None:
    text = load_text(counting, context=16)
    inputs, targets = text.held_out
    assert len(text.train) == 1800
    assert len(text.rest) == 200
    assert inputs.shape == (12, 16)
    assert inputs[0, 0] == 1800 % 251
    assert torch.equal((inputs + 1) % 251, targets)


def test_text_without_a_file_is_python() -> None:
    text = load_text(None, context=32)
    assert b"import " in bytes(text.train[:20_000].tolist())
    assert torch.equal(load_text(None, context=32).train, text.train)


def test_a_text_too_short_for_its_windows_is_refused(counting: Path) -> None:
    with pytest.raises(ValueError, match="2000 bytes; windows of 200 need at least 2010"):
        load_text(counting, context=200)
