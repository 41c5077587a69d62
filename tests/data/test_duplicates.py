"""Near-duplicates: found as a slow comparison of all pairs finds them, and kept together."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.duplicates import NEAR, near_duplicate_groups, repeated, stratified_share

WORDS = st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=12).map(" ".join)


def slow_groups(texts):
    """The same groups from a comparison of all pairs."""
    words, groups = [set(text.split()) for text in texts], [{position} for position in range(len(texts))]
    for one, first in enumerate(words):
        for other, second in enumerate(words):
            if len(first & second) >= NEAR * len(first | second):
                joined = [group for group in groups if one in group or other in group]
                groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    return sorted(sorted(group) for group in groups)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=20))
def test_groups_are_those_of_all_pairs(texts):
    """Catches: a pair that the index of rare words overlooks, a group torn in two, a rounding of the limit."""
    assert sorted(map(sorted, near_duplicate_groups(texts))) == slow_groups(texts)


@pytest.mark.parametrize("one, other, near", [
    ("A good film", "a  GOOD, film!", True), ("a b c d e", "a b c d", True), ("a b c d e", "a b c d x", False),
    ("a b c d e f g h i j", "a b c d e f g h i x", True), ("!!!", "???", False), ("😀", "😀", True)])
def test_what_is_near(one, other, near):
    """Catches: case or signs that count, texts without a word that are all the same."""
    assert (len(near_duplicate_groups([one, other])) == 1) is near


def test_repeated():
    """Catches: case or white space that counts."""
    assert repeated(["A  b", "c", "a b"], ["a b", "d"]) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(0, 2)), min_size=2, max_size=40), st.floats(0.05, 0.9), st.integers(0, 9))
def test_a_share_is_stratified_and_tears_no_group(rows, share, seed):
    """Catches: more than a label's share, a group on both sides, a label with two groups that is on one side only."""
    texts, labels = zip(*rows, strict=True)
    chosen = stratified_share(texts, labels, share, seed)
    assert chosen == sorted(set(chosen)) == stratified_share(texts, labels, share, seed)
    counts, taken = Counter(labels), Counter(labels[position] for position in chosen)
    assert all(taken[label] <= max(1, round(share * counts[label])) for label in counts)
    for group in near_duplicate_groups(texts):
        assert len({position in chosen for position in group}) == 1
    rest = {label for position, label in enumerate(labels) if position not in chosen}
    assert rest == set(labels)


def test_time_is_nearly_linear():
    """Catches: a comparison of all pairs (then this takes minutes)."""
    texts = [f"the word{number} is like word{number * 7 % 20_000} but not word{number * 3 % 20_000} at all"
             for number in range(20_000)]
    assert 19_900 < len(near_duplicate_groups(texts)) < 20_000  # some of the three words are the same
    assert len(near_duplicate_groups(["the same few words again"] * 20_000)) == 1
