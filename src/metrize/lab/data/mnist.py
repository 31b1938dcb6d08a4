"""MNIST from its four IDX files, and a way to get them from OpenML."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from metrize.lab.data.samples import Samples
from metrize.lab.durable import replacing

_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# of the unpacked files as first published; runs are comparable only on the same bytes
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_TRAINING = 60_000


def load_mnist(root: Path) -> Samples:
    """MNIST (or Fashion-MNIST, which has the same files) in [0, 1]; the test part is the held-out part.

    Args:
        root: folder of the four files, raw or ``.gz``, spelled ``train-images-idx3-ubyte`` or ``.idx3-ubyte``.

    Raises:
        FileNotFoundError: a file is missing; names what was looked for, where, and how to get it.
        ValueError: a file is damaged; names it.
    """
    return Samples(*_part(root, *_TRAIN), held_out=_part(root, *_TEST))


def fetch_mnist(root: Path) -> list[Path]:
    """Put the four MNIST files into a folder, made of OpenML's data set ``mnist_784`` and checked by their SHA-256.

    Args:
        root: folder to fill; made if missing.

    Returns:
        the four files.

    Raises:
        RuntimeError: OpenML does not answer, or its data set is not MNIST.
    """
    from sklearn.datasets import fetch_openml

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as cache:
        try:  # this parser needs no pandas
            told = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff", data_home=cache)
        except (OSError, ValueError) as error:
            names = ", ".join(_SHA256)
            raise RuntimeError(f"OpenML: {error}; put the files {names} (raw or .gz) into {root} by hand") from error
    for name, data in _checked(torch.as_tensor(told.data), torch.tensor([int(label) for label in told.target])).items():
        with replacing(root / name) as stream:
            stream.write(data)
    return [root / name for name in _SHA256]


def _checked(pixels: Tensor, labels: Tensor) -> dict[str, bytes]:
    """The content of the four files, each with the expected bytes; the first 60,000 images are the training part."""
    files = {}
    for (images_name, labels_name), part in ((_TRAIN, slice(_TRAINING)), (_TEST, slice(_TRAINING, None))):
        files[images_name] = _written(pixels[part].reshape(-1, 28, 28))
        files[labels_name] = _written(labels[part])
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != _SHA256[name]:
            raise RuntimeError(f"what OpenML has for {name} is not the MNIST file of that name")
    return files


def _written(values: Tensor) -> bytes:
    """An IDX file of bytes, as `_idx` reads it."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def _part(root: Path, images_name: str, labels_name: str) -> tuple[Tensor, Tensor]:
    images_file, labels_file = _find(root, images_name), _find(root, labels_name)
    images, labels = _idx(images_file, dimensions=3), _idx(labels_file, dimensions=1)
    if images.shape[1:] != (28, 28):
        raise _damaged(images_file, f"its images are {images.shape[1]}x{images.shape[2]}, not 28x28")
    if len(images) != len(labels):
        raise _damaged(labels_file, f"it has {len(labels)} labels for the {len(images)} images of {images_file.name}")
    return images.float() / 255, labels.long()


def _find(root: Path, name: str) -> Path:
    names = [spelled + suffix for spelled in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    for candidate in names:
        if (root / candidate).is_file():
            return root / candidate
    raise FileNotFoundError(f"MNIST: none of {', '.join(names)} in {root.absolute()}; {_remedy(root)}")


def _idx(file: Path, dimensions: int) -> Tensor:
    """The array of bytes of one IDX file: a magic number, the sizes (big-endian), the data."""
    data = _read(file)
    header = 4 * (1 + dimensions)
    magic, *sizes = struct.unpack_from(f">{1 + dimensions}I", data.ljust(header, b"\0"))
    if magic != 0x0800 + dimensions:
        raise _damaged(file, f"its magic number is {magic}, not {0x0800 + dimensions}")
    if len(data) != header + math.prod(sizes):
        raise _damaged(file, f"it has {len(data)} bytes where its header promises {header + math.prod(sizes)}")
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).view(sizes)


def _read(file: Path) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        return gzip.decompress(file.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(file, f"it does not unpack ({error})") from error


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(f"MNIST: {file.absolute()} is damaged: {reason}; {_remedy(file.parent)}")


def _remedy(root: Path) -> str:
    return f"get the files with 'metrize data mnist --data-root {os.fspath(root)}'"
