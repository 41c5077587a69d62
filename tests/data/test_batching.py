"""Orders (every example once, a function of seed and epoch, little padding) and the batches' tensors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batching import BATCH_COST, POOL_BATCHES, FeatureDataset, TextDataset, epoch_order, eval_order

LENGTHS = st.lists(st.integers(1, 60), max_size=300)
SEEDS = st.integers(0, 2**32)
FUZZ = settings(deadline=None, max_examples=60)


def flat(order):
    return [position for batch in order for position in batch]


@FUZZ
@given(LENGTHS, st.integers(1, 40), SEEDS, st.integers(0, 20), st.booleans())
def test_epoch_order_is_a_partition(lengths, batch_size, seed, epoch, bucket):
    """Catches examples dropped or repeated, more than one short batch, and an order that is no function of
    its arguments: the global generators are moved between two calls.
    """
    order = epoch_order(lengths, batch_size, seed, epoch, bucket)
    assert sorted(flat(order)) == list(range(len(lengths)))
    assert sorted(map(len, order), reverse=True)[:-1] == [batch_size] * (len(order) - 1)
    assert len(order) == -(-len(lengths) // batch_size)
    torch.rand(1), np.random.rand(1)
    assert epoch_order(lengths, batch_size, seed, epoch, bucket) == order
    assert all(type(position) is int for position in flat(order))


@pytest.mark.parametrize("bucket", [True, False])
def test_seed_and_epoch_change_the_order(bucket):
    """Catches a forgotten seed or epoch, and mixing them so that (1, 2) is (2, 1)."""
    orders = [epoch_order([7] * 200, 8, seed, epoch, bucket) for seed in range(3) for epoch in range(3)]
    assert len({tuple(flat(order)) for order in orders}) == 9


def test_order_uses_no_global_generator():
    """Catches an order that draws from torch's or NumPy's global generator and so shifts dropout."""
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch_order(list(range(1, 100)), 8, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()


def test_order_stays_what_it_is():
    """Catches a change of the order between versions, which would break resuming and published figures."""
    assert epoch_order([3, 1, 2, 5, 4, 9, 8], 3, seed=11711, epoch=0) == [[1, 2, 0], [4], [3, 6, 5]]


def padding(lengths, order):
    """The share of a batch's places that is padding, over an epoch."""
    places = sum(max(lengths[i] for i in batch) * len(batch) for batch in order)
    return 1 - sum(lengths) / places


@pytest.mark.parametrize("batch_size", [8, 32])
def test_buckets_leave_little_padding(batch_size):
    """Catches buckets that do not sort: random batches of lengths like SST's waste over a third."""
    lengths = np.random.default_rng(0).gamma(4, 6, 4000).astype(int) + 1
    bucketed = padding(lengths, epoch_order(lengths, batch_size, 0, 0))
    shuffled = padding(lengths, epoch_order(lengths, batch_size, 0, 0, bucket=False))
    assert bucketed < 0.06 and shuffled > 0.3


def test_buckets_stay_random():
    """Catches batches that come in order of length, or the same neighbours every epoch."""
    lengths = np.random.default_rng(0).integers(1, 50, 8 * POOL_BATCHES * 3)
    order = epoch_order(lengths, 8, 0, 0)
    longest = [max(lengths[i] for i in batch) for batch in order]
    assert abs(np.corrcoef(range(len(longest)), longest)[0, 1]) < 0.3
    neighbours = {frozenset(batch) for batch in order}
    assert len(neighbours & {frozenset(batch) for batch in epoch_order(lengths, 8, 0, 1)}) < len(order) / 20


def test_the_short_batch_favours_no_length():
    """Catches a short batch that always holds the longest or shortest: its examples weigh more in a step."""
    lengths = list(range(1, 38))
    shortest_of_it = set()
    for epoch in range(60):
        short = min(epoch_order(lengths, 8, 0, epoch), key=len)
        assert len(short) == 5
        shortest_of_it.add(min(short))
    assert shortest_of_it == {0, 8, 16, 24, 32}


@FUZZ
@given(LENGTHS, st.integers(1, 40))
def test_eval_order(lengths, batch_size):
    """Catches examples dropped or repeated in an evaluation, and short ones first."""
    order = eval_order(lengths, batch_size)
    assert sorted(flat(order)) == list(range(len(lengths)))
    assert [lengths[i] for i in flat(order)] == sorted(lengths, reverse=True)


def test_batch_size_is_checked():
    """Catches an endless or empty epoch."""
    for call in (lambda: epoch_order([1], 0, 0, 0), lambda: eval_order([1], -1)):
        with pytest.raises(ValueError, match="batch_size"):
            call()


@FUZZ
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9), st.data())
def test_collate(ids, data):
    """Catches rows mixed up, padding left in or on the left, a wrong mask, and a shape longer than needed."""
    dataset = TextDataset(ids, list(range(len(ids))), pad_id=7)
    assert dataset.lengths == [len(row) for row in ids] and len(dataset) == len(ids)
    chosen = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=12))
    batch = dataset.collate(chosen)
    T = max(len(ids[i]) for i in chosen)
    assert batch.input_ids.tolist() == [ids[i] + [7] * (T - len(ids[i])) for i in chosen]
    assert batch.attention_mask.tolist() == [[1] * len(ids[i]) + [0] * (T - len(ids[i])) for i in chosen]
    assert batch.labels.tolist() == batch.index.tolist() == chosen
    assert {t.dtype for t in (*batch.inputs, batch.labels, batch.index)} == {torch.int64}
    assert len(batch) == len(chosen)


def cost(sizes, lengths, batch_size, tokens):
    """What batches of so many texts cost, padding and BATCH_COST included; None if one is too large."""
    starts = np.cumsum([0, *sizes[:-1]])
    padded = [size * lengths[start] for start, size in zip(starts, sizes, strict=True)]
    if any(size > batch_size or (size > 1 and total > tokens) for size, total in zip(sizes, padded, strict=True)):
        return None
    return sum(padded) + BATCH_COST * len(sizes)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 12), st.integers(1, 200))
def test_eval_order_within_a_number_of_tokens(lengths, batch_size, tokens):
    """Catches a batch that is larger than asked for, a text too long for the limit left out, and batches that cost more
    than those of some other way to cut: all of them are tried.
    """
    order = eval_order(lengths, batch_size, tokens)
    assert sorted(flat(order)) == list(range(len(lengths)))
    falling = [lengths[row] for row in flat(order)]
    assert falling == sorted(lengths, reverse=True)
    costs = []
    for between in itertools.product((False, True), repeat=len(lengths) - 1):
        ends = [place for place, cut in enumerate((*between, True), 1) if cut]
        costs.append(cost(np.diff([0, *ends]).tolist(), falling, batch_size, tokens))
    assert cost([len(rows) for rows in order], falling, batch_size, tokens) == min(c for c in costs if c is not None)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_eval_order_of_many_texts_keeps_the_limits(lengths, batch_size, tokens):
    """Catches what a handful of texts does not show: a position lost or a limit passed; no texts at all, too."""
    order = eval_order(lengths, batch_size, tokens)
    assert sorted(flat(order)) == list(range(len(lengths)))
    falling = [lengths[row] for row in flat(order)]
    assert not lengths or cost([len(rows) for rows in order], falling, batch_size, tokens) is not None


def test_collate_does_not_share_memory():
    """Catches a batch that is a view: changing it in place would change the data set."""
    dataset = TextDataset([[1, 2], [3]], [0, 1], pad_id=0)
    dataset.collate([0, 1]).input_ids.fill_(9)
    dataset.collate([0, 1]).labels.fill_(9)
    assert dataset.collate([0, 1]).input_ids.tolist() == [[1, 2], [3, 0]]
    assert dataset.collate([0, 1]).labels.tolist() == [0, 1]


def test_unlabelled():
    """Catches labels invented for a test file."""
    batch = TextDataset([[1], [2, 3]], None, pad_id=0).collate([1])
    assert batch.labels is None and batch.to("cpu").labels is None


def test_features_have_the_same_interface():
    """Catches stored features that the one loop cannot be handed."""
    features = torch.arange(12.0).view(4, 3)
    dataset = FeatureDataset(features, torch.tensor([0, 1, 0, 1]))
    batch = dataset.collate([3, 0])
    assert torch.equal(batch.inputs[0], features[[3, 0]]) and torch.equal(batch.inputs[1], torch.ones(2, 1).long())
    assert batch.labels.tolist() == [1, 0] and batch.index.tolist() == [3, 0] and len(batch) == 2
    assert len(epoch_order(dataset.lengths, 3, 0, 0)) == 2 and len(dataset) == 4
    assert FeatureDataset(features, None).collate([0]).labels is None


def test_to_moves_every_tensor():
    """Catches a tensor left behind; the meta device stands in for an accelerator."""
    batch = TextDataset([[1], [2, 3]], [0, 1], pad_id=0).collate([0, 1]).to("meta")
    assert {t.device.type for t in (*batch.inputs, batch.labels, batch.index)} == {"meta"}
    assert FeatureDataset(torch.zeros(2, 3), None).collate([1]).to("meta").features.is_meta


def test_wrong_data():
    """Catches an empty text, and labels that do not belong to the texts, found only while training."""
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        TextDataset([[1], []], None, pad_id=0)
    for make in (lambda: TextDataset([[1]], [0, 1], 0), lambda: FeatureDataset(torch.zeros(2, 3), [0])):
        with pytest.raises(ValueError, match="labels of shape"):
            make()


def test_fingerprint():
    """Catches a fingerprint blind to a changed id or to where one text ends and the next begins."""
    prints = [TextDataset(ids, None, 0).fingerprint for ids in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2], [4]])]
    assert len(set(prints)) == 3 and TextDataset([[1, 2], [3]], [0, 1], 9).fingerprint == prints[0]


def test_copies_to_a_gpu_are_pinned_and_asynchronous(monkeypatch):
    """Catches: a training loop on CUDA that waits for each copy. Needs no GPU: both calls are stand-ins."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking=False:
                        calls.append((device.type, non_blocking)) or tensor)
    batch = TextDataset([[1], [2, 3]], None, pad_id=0).collate([0, 1])
    batch.to("cuda:0")
    assert calls == ["pinned", ("cuda", True)] * 3
    calls.clear()
    batch.to("cpu")
    assert calls == [("cpu", False)] * 3
