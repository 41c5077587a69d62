"""What results are compared with, on data whose answers are known."""

import pytest

from training.baselines import majority_class, tfidf_logistic_regression


def test_majority_class():
    """Catches the majority of the dev labels, or a macro-F1 that ignores the classes never answered."""
    result = majority_class([2, 2, 2, 0, 1], [0, 0, 0, 2])
    assert result.accuracy == 1 / 4 and result.examples == 4
    assert result.macro_f1 == pytest.approx((0 + 2 * 1 / (1 + 4)) / 2)


@pytest.mark.parametrize("train", [[3, 1, 3, 1], [1, 3, 1, 3]])
def test_ties_go_to_the_smallest_label(train):
    """Catches an answer that depends on the order of the file."""
    assert majority_class(train, [1]).accuracy == 1.0


def test_tfidf_learns_words_and_signs():
    """Catches a vectorizer that drops "!" or one-letter words, or a model fitted on dev: only these tell apart."""
    train = ["the film !", "a film !", "the end !", "the film .", "a film .", "the end ."] * 3
    labels = [1, 1, 1, 0, 0, 0] * 3
    result = tfidf_logistic_regression(train, labels, ["a new plot !", "this plot .", "end ."], [1, 0, 0])
    assert (result.accuracy, result.macro_f1, result.examples) == (1.0, 1.0, 3)
    # The same texts with the opposite labels: a model fitted on dev would get them right as well.
    assert tfidf_logistic_regression(train, labels, ["a new plot !", "this plot ."], [0, 1]).accuracy == 0.0


def test_tfidf_learns_pairs_of_words():
    """Catches single words only: every word occurs equally often with both labels."""
    train = ["not good", "very bad", "very good", "not bad"] * 10
    labels = [0, 0, 1, 1] * 10
    assert tfidf_logistic_regression(train, labels, train, labels).accuracy == 1.0


def test_one_class_to_learn_from():
    """Catches scikit-learn's error when the training file holds a single label: any answer is that one."""
    result = tfidf_logistic_regression(["a b", "c d"], [1, 1], ["a", "c", "x"], [1, 1, 0])
    assert result == majority_class([1, 1], [1, 1, 0]) and result.accuracy == pytest.approx(2 / 3)


def test_words_never_seen_before():
    """Catches a crash where dev shares no word with train."""
    assert tfidf_logistic_regression(["a", "b"], [0, 1], ["x y", "?"], [0, 1]).examples == 2
