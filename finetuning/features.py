"""The files of a task on their way to the model: read, tokenised once, and for a frozen backbone turned into features.

A frozen backbone runs in eval mode, so a text's vector is the same in every epoch. It is computed once, and the epochs
run on the stored vectors; a later run on the same weights, texts and code reads them from disk. (The course's starter
leaves dropout on in the frozen backbone and computes every vector again in every epoch.)
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import read_bounded, replacing
from common.terminal import say
from data.batching import FeatureDataset, TextDataset, eval_order
from data.reader import Example
from data.tasks import Task
from data.tokenizer import Tokenizer
from training.evaluate import predict
from training.machine import Machine
from training.parallel.process_group import ALONE, Group
from training.runs.tensor_file import hash_tensors

TEXTS, CPU_TOKENS = 32, 1024
"""The most that a batch to predict has, for each process. A thousand tokens run at full speed on a CPU."""
CACHE_BYTES = 2 * 1024**3
"""The cache folder is kept below this; the files used longest ago go first."""


def prediction_order(lengths: Sequence[int], machine: Machine) -> list[list[int]]:
    """The batches in which texts of these lengths are predicted fastest."""
    processes = machine.group.size
    return eval_order(lengths, TEXTS * processes, CPU_TOKENS * processes if machine.device.type == "cpu" else None)


@dataclass(frozen=True)
class Split:
    """One file of a task, as examples and as what batches are made of, in the same order."""

    examples: list[Example]
    dataset: TextDataset | FeatureDataset
    cut: int = 0
    "Number of texts that were too long and were cut."

    @property
    def labels(self) -> list[int | None]:
        """One for each example; None for those of a test file without labels."""
        return [example.label for example in self.examples]

    @property
    def texts(self) -> list[str]:
        """One for each example."""
        return [example.text for example in self.examples]

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids of some examples."""
        return [self.examples[row].id for row in rows]

    def predict(self, model: nn.Module, machine: Machine, describe: str) -> Tensor:
        """What model(*inputs) gives for every example, in file order: float32 [N, ...] on the CPU."""
        return predict(model, prediction_order(self.dataset.lengths, machine), self.dataset.collate, machine, describe)


def read_splits(task: Task, tokenizer: Tokenizer, max_length: int,
                examples: dict[str, list[Example]] | None = None) -> dict[str, Split]:
    """Tokenise a task's files, which are read unless their examples are given; says how many texts are cut.

    max_length: in tokens. Labels of a test file stay out of its data set.
    """
    splits = {}
    for name, rows in (examples or task.load().examples).items():
        encoded = tokenizer.encode([row.text for row in rows], max_length, task.lowercase, task.keep_end)
        if encoded.truncated:
            say(f"{task.name} {name}: {encoded.truncated} of {len(rows)} texts cut to "
                f"{'their last ' * task.keep_end}{max_length} tokens")
        labels = None if name == "test" else [row.label for row in rows]
        splits[name] = Split(rows, TextDataset(encoded.ids, labels, tokenizer.pad_id), encoded.truncated)
    return splits


class FeatureCache:
    """Feature tensors on disk, under names made of everything that they depend on."""

    def __init__(self, folder: Path, limit: int = CACHE_BYTES, group: Group = ALONE):
        self.folder, self.limit, self.group = folder, limit, group

    def get(self, key: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
        """The features [N, C] for this key, read back or else computed and stored.

        key: strings that together decide the features. A file that fails its checksum is computed anew. A cache that
        cannot be written costs only the reuse. Of a group, the first process reads and writes for all; all compute.
        """
        path = self.folder / (hashlib.sha256("\n".join(key).encode()).hexdigest()[:32] + ".safetensors")
        features = self.group.broadcast_from_main(lambda: self.read(path))
        if features is None:
            features = compute()
            with contextlib.suppress(UserError, OSError, SafetensorError):
                if self.group.is_main:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as temporary:
                        save_file({"features": features, "sha256": digest(path, features)}, temporary)
                    self.shrink(keep=path)
        return features

    def read(self, path: Path) -> Tensor | None:
        """The features in a file, or None where there is none, or it is damaged or another key's."""
        try:
            content = load(read_bounded(path, 8 * CACHE_BYTES))  # the last file stays, however large
        except (OSError, SafetensorError, KeyError):  # KeyError: a type that PyTorch lacks
            return None
        features = content.get("features")
        if features is None or not torch.equal(content.get("sha256", torch.empty(0)), digest(path, features)):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: shrink() removes what was used longest ago
        return features

    def shrink(self, keep: Path) -> None:
        """Remove the files used longest ago until the folder is below its limit; `keep` stays."""
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self.limit:
                return
            if path != keep:
                total -= path.stat().st_size
                path.unlink()


def digest(path: Path, features: Tensor) -> Tensor:
    """SHA-256 of the file's name and the features as a uint8 tensor [32], so that it travels in the same file."""
    return torch.frombuffer(bytearray.fromhex(hash_tensors({path.name: features})), dtype=torch.uint8)


class LastToken(nn.Module):
    """A backbone seen as a function (input_ids, attention_mask) -> [B, C], the vector of each row's last token."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask [B, T] -> [B, C]"""
        return self.backbone(input_ids, attention_mask)["last_token"]


class StoredFeatures(nn.Module):
    """Takes the place of a frozen backbone in a classifier: is handed each text's stored vector, and returns it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """input_ids: features [B, C] -> {'last_token': [B, C]}"""
        return {"last_token": input_ids}


def with_features(splits: dict[str, Split], backbone: nn.Module, code: str, machine: Machine,
                  folder: Path) -> dict[str, Split]:
    """The same splits, with each text's vector [C] from the frozen backbone in place of its tokens.

    code: identifies what computes the vectors from the weights. folder: where features are kept for later runs on the
    same weights, code, texts, precision and device.
    """
    cache, weights = FeatureCache(folder, group=machine.group), hash_tensors(backbone.state_dict())
    featured = {}
    for name, split in splits.items():
        key = (weights, code, split.dataset.fingerprint, machine.precision, machine.device.type)
        features = cache.get(key, lambda name=name, split=split:
                             split.predict(LastToken(backbone), machine, f"running the backbone on {name}"))
        featured[name] = Split(split.examples, FeatureDataset(features, None if name == "test" else split.labels))
    return featured
