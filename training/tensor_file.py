"""Safetensors files, hashed on their way: written from the tensors' own memory, read back only when verified.

The format is 8 bytes with the length of a JSON header, the header (name -> dtype, shape, offsets), and the tensors'
bytes one after another. The library's writer hashes nothing and reports a full disk as a bug; its reader is used as it
is. Little-endian machines only, like PyTorch's releases.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError

DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
          torch.float16: "F16", torch.int16: "I16", torch.uint8: "U8", torch.int8: "I8", torch.bool: "BOOL"}


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to something else."""


def pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; on the CPU no tensor is copied."""
    # Wide types first, so that every tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {}, 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield memoryview(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def checksum(tensors: dict[str, Tensor]) -> tuple[str, int]:
    """SHA-256 and length of the file that `pieces` makes."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces(tensors):
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length


def read_verified(path: Path, sha256: str, length: int) -> dict[str, Tensor]:
    """The tensors of a file whose length and checksum are as expected; CheckpointError without parsing it otherwise.

    They lie in the file's pages, mapped: copy what is to outlive the file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        if found != length:
            raise CheckpointError(f"{path} is damaged: {found} bytes long instead of {length}")
        try:
            while piece := file.read(1 << 20):
                digest.update(piece)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in the checkpoint's JSON file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {str(error)[:200]}") from error


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a plain file for reading; CheckpointError for a link, and for a pipe or device, which could hang."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link; a checkpoint consists of plain files")
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is no plain file")
    with open(descriptor, "rb") as file:
        yield file
