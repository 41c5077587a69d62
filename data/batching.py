"""Batches: which examples go together, in which order, and as which tensors.

An order has a random generator of its own, so evaluation, dropout and resuming do not change it. Shapes: B rows in a
batch, T tokens in its longest row, C numbers in a feature.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

POOL_BATCHES = 64  # batches sorted by length together: enough for little padding, few enough to mix an epoch well
BATCH_COST = 32  # cost of one batch on a CPU besides its tokens (reading all weights, Python), in tokens


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rows:
    """What both kinds of batch share."""

    labels: Tensor | None  # [B] int64; None for unlabelled data
    index: Tensor  # [B] int64: position of each row in its data set

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str):
        """Return the same batch with its tensors on `device`."""
        device = torch.device(device)

        def send(tensor: Tensor) -> Tensor:
            # To CUDA from pinned memory, so that Python need not wait for the copy.
            if device.type == "cuda" and tensor.device.type == "cpu":
                return tensor.pin_memory().to(device, non_blocking=True)
            return tensor.to(device)

        return replace(self, **{name: send(tensor) for name, tensor in vars(self).items() if tensor is not None})


@dataclass(frozen=True, eq=False)
class Batch(_Rows):
    """A batch of padded texts."""

    input_ids: Tensor  # [B, T] int64, padded on the right
    attention_mask: Tensor  # [B, T] int64: 1 for a token, 0 for padding

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """The arguments of the model: ids and mask."""
        return self.input_ids, self.attention_mask


@dataclass(frozen=True, eq=False)
class FeatureBatch(_Rows):
    """A batch of stored features of texts, one vector for each text."""

    features: Tensor  # [B, C]

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """The arguments of the head: the features, and a mask [B, 1], as if each were a text of one token."""
        return self.features, torch.ones_like(self.index)[:, None]


class TextDataset:
    """The token ids of all texts, end to end in one tensor: one indexing operation makes a batch."""

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int] | None, pad_id: int) -> None:
        """ids: one list for each text, not empty. labels: one for each text, or None. ValueError if they do not fit."""
        self.lengths = [len(row) for row in ids]
        if not all(self.lengths):
            raise ValueError(f"text {self.lengths.index(0)} has no tokens")
        self.pad_id = pad_id
        self._lengths = torch.tensor(self.lengths, dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._tokens = torch.from_numpy(np.fromiter((token for row in ids for token in row), np.int64))
        self._labels = _label_tensor(labels, len(ids))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all texts' ids: it changes with the file, the rules, the tokenizer and the longest length."""
        digest = hashlib.sha256(self._lengths.numpy())
        digest.update(self._tokens.numpy())
        return digest.hexdigest()

    def collate(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these examples, in this order, padded to the longest of them."""
        index = torch.tensor(indices, dtype=torch.int64)
        lengths = self._lengths[index]
        positions = torch.arange(int(lengths.max()))
        mask = positions < lengths[:, None]  # [B, T]
        where = (self._starts[index][:, None] + positions).clamp_(max=len(self._tokens) - 1)  # [B, T]
        input_ids = self._tokens[where].masked_fill_(~mask, self.pad_id)
        labels = None if self._labels is None else self._labels[index]
        return Batch(input_ids, mask.long(), labels=labels, index=index)


class FeatureDataset:
    """Stored features [N, C] in place of texts; used like a TextDataset."""

    def __init__(self, features: Tensor, labels: Sequence[int] | Tensor | None) -> None:
        self.features = features
        self.lengths = [1] * len(features)  # features need no padding
        self._labels = _label_tensor(labels, len(features))

    def __len__(self) -> int:
        return len(self.features)

    def collate(self, indices: Sequence[int]) -> FeatureBatch:
        """Return the batch of these examples, in this order."""
        index = torch.tensor(indices, dtype=torch.int64)
        labels = None if self._labels is None else self._labels[index]
        return FeatureBatch(self.features[index], labels=labels, index=index)


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int, bucket: bool = True) -> list[list[int]]:
    """Plan the batches of one training epoch: every position once, in an order that depends on (seed, epoch) only.

    With `bucket`, the examples are shuffled, sorted by length within pools of `POOL_BATCHES` batches, and cut into
    batches; then the batches are shuffled. So there is little padding in a random order. If `batch_size` does not
    divide the number of examples, one batch is smaller. Its texts may have any length, so that no length is favoured.
    """
    _check_batch_size(batch_size)
    random = np.random.default_rng((seed, epoch))
    shuffled = random.permutation(len(lengths))
    if not bucket:
        return _cut(shuffled, batch_size)

    lengths = np.asarray(lengths)
    batches: list[list[int]] = []
    pool_size = POOL_BATCHES * batch_size
    for start in range(0, len(shuffled), pool_size):
        pool = shuffled[start:start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += _cut(pool, batch_size, short=int(random.integers(len(pool) // batch_size + 1)))
    return [batches[position] for position in random.permutation(len(batches))]


def eval_order(lengths: Sequence[int], batch_size: int, tokens: int | None = None) -> list[list[int]]:
    """Plan the batches of one evaluation: every position once, the longest text first: a lack of memory shows at once.

    Without `tokens`, each batch has `batch_size` texts. With it, a batch has at most `batch_size` texts and at most
    `tokens` tokens, padding included (or one longer text); the cuts are those with the least padding and `BATCH_COST`.
    """
    _check_batch_size(batch_size)
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    if tokens is None:
        return _cut(order, batch_size)
    cuts = _cheapest_cuts([lengths[position] for position in order], batch_size, tokens)
    return [order[start:end].tolist() for start, end in pairwise(cuts)]


def _cheapest_cuts(lengths: Sequence[int], batch_size: int, tokens: int) -> list[int]:
    """Find the cheapest way to cut texts, longest first, into batches: return where to cut, 0 and the end included."""
    # best[n], for the first n texts: the least cost, and the size of the last batch (the smallest of equal ones).
    best: list[tuple[float, int]] = [(0, 0)] + [(math.inf, 0)] * len(lengths)
    for start, longest in enumerate(lengths):
        for size in range(1, min(batch_size, max(tokens // longest, 1), len(lengths) - start) + 1):
            cost = best[start][0] + BATCH_COST + size * longest
            best[start + size] = min(best[start + size], (cost, size))
    cuts = [len(lengths)]
    while cuts[-1] > 0:
        cuts.append(cuts[-1] - best[cuts[-1]][1])
    return cuts[::-1]


def _cut(order: np.ndarray, batch_size: int, short: int | None = None) -> list[list[int]]:
    """Cut an order into batches; a smaller one, if any, comes after `short` full ones (default: last)."""
    full, rest = divmod(len(order), batch_size)
    sizes = [batch_size] * full
    if rest:
        sizes.insert(full if short is None else short, rest)
    ends = np.cumsum(sizes, dtype=np.int64)
    return [order[end - size:end].tolist() for size, end in zip(sizes, ends, strict=True)]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


def _label_tensor(labels: Sequence[int] | Tensor | None, count: int) -> Tensor | None:
    """Return labels as [N] int64. ValueError unless there are `count`."""
    if labels is None:
        return None
    tensor = torch.as_tensor(labels, dtype=torch.int64)
    if tensor.shape != (count,):
        raise ValueError(f"{count} examples, but labels of shape {tuple(tensor.shape)}")
    return tensor
