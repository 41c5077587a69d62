"""Predictions come in file order and leave the model as it was; scores have known values."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import nn

from data.batching import FeatureDataset, TextDataset, eval_order
from tests.training.toy import Unmasked
from training.evaluate import Score, leaves_model_as_found, predict, score
from training.loop import Diverged
from training.machine import Machine

FUZZ = settings(deadline=None, max_examples=40)


class Net(nn.Module):
    """Submodules in every combination of modes, dropout among them."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, features, mask=None):
        return self.head(self.frozen(features))


def net():
    torch.manual_seed(0)
    return Net()


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@FUZZ
@given(st.data())
def test_outputs_are_in_file_order_whatever_the_batches(data):
    """Catches outputs in the order of the batches, rows lost at a short batch, and a result of the wrong shape."""
    count = data.draw(st.integers(1, 40))
    order = data.draw(st.permutations(range(count)))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(count - 1, 1)))) & set(range(1, count)))
    batches = [order[start:end] for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
    features = torch.arange(count, dtype=torch.float32)[:, None] * torch.tensor([1.0, -1.0])
    outputs = predict(Unmasked(), batches, FeatureDataset(features, None).collate, Machine())
    assert torch.equal(outputs, features) and outputs.dtype == torch.float32


def test_padding_does_not_reach_the_wrong_row():
    """Catches an index that is sorted with the rows: texts of all lengths, longest first, each with its own sum.
    And outputs that keep the model's type: what is stored must not depend on it.
    """

    class Sum(nn.Module):
        def forward(self, input_ids, attention_mask):
            return (input_ids * attention_mask).sum(1, keepdim=True).double()

    ids = [[row + 1] * (row * 7 % 5 + 1) for row in range(23)]
    data = TextDataset(ids, None, pad_id=99)
    outputs = predict(Sum(), eval_order(data.lengths, 4), data.collate, Machine())
    assert outputs.dtype == torch.float32
    assert outputs[:, 0].tolist() == [float(sum(row)) for row in ids]


def test_predicting_twice_gives_the_same_and_no_graph():
    """Catches dropout left on, gradients tracked, and outputs that drag a graph along."""
    model, data = net(), FeatureDataset(torch.randn(9, 3), None)
    first = predict(model, eval_order(data.lengths, 4), data.collate, Machine())
    assert torch.equal(first, predict(model, eval_order(data.lengths, 4), data.collate, Machine()))
    assert not first.requires_grad and first.grad_fn is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_answers_that_are_not_finite_are_an_error(value):
    """Catches an argmax of NaN, which is a class like any other, and features of NaN that are stored."""
    features = torch.randn(9, 3)
    features[7, 1] = features[8] = value
    data = FeatureDataset(features, None)
    with pytest.raises(Diverged, match=r"while evaluating, the model's answers to 2 of 9 texts became NaN or infinite"):
        predict(Unmasked(), [range(4), range(4, 9)], data.collate, Machine(), "evaluating")


def test_what_was_predicted_can_be_trained_on():
    """Catches features that autograd refuses later, since they were made in inference mode."""
    data = FeatureDataset(torch.randn(9, 3), None)
    features = FeatureDataset(predict(Unmasked(), [range(9)], data.collate, Machine()), [0] * 9)
    head = nn.Linear(3, 2)
    head(features.collate([1, 2, 3]).features).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_every_submodule_gets_its_mode_back():
    """Catches model.train() after an evaluation, which would switch a frozen backbone's dropout on."""
    model, data = net(), FeatureDataset(torch.randn(5, 3), None)
    before = modes(model)
    assert set(before.values()) == {True, False}
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append(any(modes(model).values())))
    predict(model, [[0, 1], [2, 3, 4]], data.collate, Machine())
    assert modes(model) == before and seen == [False, False]


def test_modes_come_back_after_an_error():
    """Catches a restoration that is skipped when the evaluation fails, or gradients left off after it."""
    model = net()
    before = modes(model)

    @leaves_model_as_found
    def fails(model, number, *, word):
        """Says no."""
        assert not any(modes(model).values()) and not torch.is_grad_enabled()
        raise ZeroDivisionError(f"{number} {word}")

    with pytest.raises(ZeroDivisionError, match="7 no"):
        fails(model, 7, word="no")
    assert modes(model) == before and torch.is_grad_enabled()
    assert fails.__name__ == "fails" and fails.__doc__ == "Says no."


LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@FUZZ
@given(LABELS)
def test_scores_are_what_the_definitions_say(pairs):
    """Catches micro or weighted averages, and classes counted that occur nowhere."""
    labels, predicted = map(list, zip(*pairs, strict=True))
    result = score(labels, predicted)
    f1 = []
    for label in set(labels) | set(predicted):
        hits = sum(a == b == label for a, b in pairs)
        f1.append(2 * hits / (labels.count(label) + predicted.count(label)))
    assert result.accuracy == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert result.macro_f1 == pytest.approx(sum(f1) / len(f1))
    assert result.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert result.examples == len(pairs) and type(result.accuracy) is type(result.macro_f1) is float


def test_a_known_score():
    """Catches an F1 that is precision or recall: 2 of 2 negatives found, but with one false alarm; 1 of 2
    positives; no neutral.
    """
    result = score([0, 0, 1, 1, 2], [0, 0, 1, 0, 1])
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.macro_f1 == pytest.approx((2 * 2 / 5 + 2 * 1 / 4 + 0) / 3)


@pytest.mark.parametrize("accuracy, examples", [(0.0, 1), (1.0, 3), (0.5, 100), (0.9, 400), (0.2, 5), (1.0, 10**6)])
def test_interval(accuracy, examples):
    """Catches an interval of no width at 0 and 1. Its ends solve (accuracy - p)^2 = z^2 p (1 - p) / N for p."""
    low, high = Score(accuracy, 0.0, examples).interval
    z = statistics.NormalDist().inv_cdf(0.975)
    roots = np.roots([1 + z**2 / examples, -2 * accuracy - z**2 / examples, accuracy**2])
    assert (low, high) == pytest.approx(sorted(roots.real), rel=1e-5, abs=1e-9)
    assert 0 <= low <= accuracy <= high <= 1 and low < high
