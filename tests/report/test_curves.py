"""Each fault is found on a curve that has it, at the epoch where it begins, and on no curve that has not."""

import numpy as np
import pytest

from report import curves as module
from report.curves import Course, collapse, curves, faults, not_finished, overfitting, rate_too_high, rate_too_low
from report.read import load_groups
from tests.report.folders import logits_for, write_run

CHANCE = float(np.log(2))


def course(train, dev=None, top=None, excess=None, scatter=0.3, texts=500):
    """A run with such losses; the texts' losses scatter around dev's, the same way in every epoch but for a tenth."""
    rng = np.random.default_rng(0)
    dev = train if dev is None else dev
    shared = rng.normal(size=texts)
    each = np.stack([shared + 0.1 * rng.normal(size=texts) for _ in dev])
    each = scatter * (each - each.mean(axis=1, keepdims=True)) + np.array(dev, float)[:, None]
    top = np.full(len(dev), 0.5) if top is None else np.array(top, float)
    return Course(np.array(train, float), each, top, top - 0.5 if excess is None else np.array(excess, float), CHANCE)


FALLING = [0.6, 0.5, 0.4, 0.3, 0.2]
HEALTHY = course([0.6, 0.5, 0.45, 0.42, 0.40], [0.55, 0.5, 0.48, 0.478, 0.477])


@pytest.mark.parametrize("rule, epoch, run", [
    (overfitting, 3, course(FALLING, [0.5, 0.45, 0.47, 0.5, 0.55])),
    (overfitting, 5, course(FALLING, [0.5, 0.45, 0.42, 0.40, 0.43])),  # it begins with the last epoch
    (overfitting, 2, course([0.5, 0.3], [0.45, 0.60])),
    (rate_too_high, 3, course([0.6, 0.5, 0.7, 0.4])), (rate_too_high, 2, course([0.7, 5.0, 4.0])),
    (rate_too_low, 1, course([0.70, 0.70, 0.695])),
    (not_finished, 4, course(FALLING, [0.6, 0.55, 0.5, 0.45])), (not_finished, 3, course([0.6, 0.5, 0.4])),
    (collapse, 3, course(FALLING, top=[0.5, 0.6, 0.97, 1.0, 1.0])), (collapse, 1, course(FALLING, top=[1.0] * 5)),
    (collapse, 2, course(FALLING, top=[0.5, 0.96, 0.5, 0.5, 0.5])),
])
def test_a_fault_is_found_where_it_begins(rule, epoch, run):
    """Catches an epoch counted from 0, or the one before the fault."""
    found = rule(run)
    assert found is not None and found[0] == epoch


@pytest.mark.parametrize("rule, run", [
    *((rule, HEALTHY) for rule in (overfitting, rate_too_high, rate_too_low, not_finished, collapse)),
    (overfitting, course(FALLING, [0.5, 0.45, 0.445, 0.44, 0.445])),  # 1 percent
    (overfitting, course(FALLING, [0.5, 0.45, 0.60, 0.5, 0.44])),  # it recovers
    (overfitting, course([0.5, 0.4, 0.45, 0.46], [0.5, 0.4, 0.45, 0.46])),  # train loss rises, too: another fault
    (overfitting, course([0.6, 0.5, 0.4], [0.5, 0.45, 0.47], texts=10, scatter=3.0)),  # ten texts do not show it
    (overfitting, course([0.5], [0.5])),
    (rate_too_high, course([0.6, 0.5, 0.55, 0.52])),  # a tenth: noise of a constant rate
    (rate_too_high, course([0.02, 0.01, 0.02, 0.01])),  # double, but of nothing
    (rate_too_high, course([0.6])),
    (rate_too_low, course([0.70, 0.5])), (rate_too_low, course([0.50, 0.495])),  # it had learned in the first epoch
    (rate_too_low, course([0.69])), (rate_too_low, course([5.0, 5.0])),  # far worse than knowing nothing
    (not_finished, course([0.6, 0.4])), (not_finished, course(FALLING, [0.6, 0.5, 0.40, 0.399])),
    (not_finished, course(FALLING, [0.6, 0.4, 0.5, 0.45])),
    (collapse, course(FALLING, top=[1.0, 1.0, 0.6, 0.6, 0.6])),  # it begins so and learns
    (collapse, course(FALLING, top=[0.5, 1, 1, 1, 1], excess=[0, *[0.05] * 4])),  # nearly all have that label
    (collapse, course(FALLING, top=[0.5, 1.0, 1.0, 1.0, 1.0], texts=5)),
])
def test_no_fault_is_made_up(rule, run):
    """Catches a rule that warns of noise, of another fault, or of a run too short or too small to tell."""
    assert rule(run) is None


def test_the_paired_noise_counts():
    """Catches a rule that compares means of texts as if they were other texts: the same ones scatter far less."""
    assert overfitting(course(FALLING, [0.5, 0.45, 0.46, 0.47, 0.48], scatter=1.0))
    assert not module.surely_above(np.array([1.0]), np.array([0.0]))


def test_every_fault_has_a_rule_in_words():
    """Catches a fault that the legend does not explain."""
    assert [name for name, _ in module.RULES] == list(module._NAMES.values())
    assert [each.fault for each in faults(course(FALLING, [0.5, 0.45, 0.47, 0.5, 0.55], top=[0.5, 1, 1, 1, 1]), 7)] \
        == ["overfitting", "collapse"]


def test_curves_of_two_seeds(tmp_path):
    """Catches a band that is not that of the seeds, a loss of another label, and a shorter run that counts as 0."""
    labels = np.array([0, 1, 1, 1])
    sure = logits_for([[0, 1, 1, 1], [0, 0, 0, 0]])
    write_run(tmp_path / "seed-1", sure, labels, seed=1, train_loss=[0.9, 0.5])
    write_run(tmp_path / "seed-2", sure[1:], labels, seed=2, train_loss=[0.7])
    group, = load_groups([tmp_path])
    found = curves(group)
    assert found.epochs == 2 and found.seeds == (1, 2) and found.best_epochs == (1, 1)
    assert found.train_loss.mean == pytest.approx([0.8, 0.5]) and np.isnan(found.train_loss.values[1, 1])
    assert found.train_loss.low == pytest.approx([0.7, 0.5]) and found.train_loss.high == pytest.approx([0.9, 0.5])
    right, wrong = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))  # logits 2 and 0
    assert found.dev_loss.values[0] == pytest.approx([right, (right + 3 * wrong) / 4])
    assert found.dev_accuracy.values[0] == pytest.approx([1, 0.25])
    assert found.top_share.values[0] == pytest.approx([0.75, 1])
    assert found.chance_loss == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
