"""Write safetensors files from the tensors' own memory, hash them, and read back only files with the expected hash.

The safetensors library only reads here: its writer computes no hash, and reports a full disk like a bug.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError
from common.files import open_regular
from training.parallel.sharding import full_tensor

DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
          torch.float16: "F16", torch.int16: "I16", torch.uint8: "U8", torch.int8: "I8", torch.bool: "BOOL"}


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit."""


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes in row-major order, without a copy if it lies so on the CPU."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256, in hex, of names, types, shapes and bytes, in order. All processes must call it together."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(full_tensor(tensor.detach())))
    return digest.hexdigest()


def pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in pieces: 8 bytes with the length of a JSON header, the header, the tensors' bytes."""
    # Lay the tensors out, wide types first, so that each starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {}, 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end

    # Header, then data.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield tensor_bytes(tensors[name])


def sha256_and_length(tensors: dict[str, Tensor]) -> tuple[str, int]:
    """Return the SHA-256 and the length in bytes of the file that `pieces` makes."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces(tensors):
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length


def read_verified(path: Path, sha256: str, length: int) -> dict[str, Tensor]:
    """Read the tensors of a file. CheckpointError, before anything is parsed, if its length or SHA-256 differs."""
    # Verify.
    digest = hashlib.sha256()
    with open_file(path) as file:
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

    # Parse.
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {str(error)[:200]}") from error


def open_file(path: Path) -> BinaryIO:
    """Open a file of a checkpoint for reading. CheckpointError for anything but a regular file."""
    try:
        return open_regular(path, follow=False)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
