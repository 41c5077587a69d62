"""Pairs of a text and its edit are found, and nothing else is; the bundled sample's pairs are known."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tasks import TASKS
from report import pairs as module
from report.pairs import edit, find, nearest, pairs
from tests.report.folders import group_of

LONG = "the hedgehog who is frightened of the dark borrows a lantern from an owl and walks home"


def sample(name, split):
    """The texts and labels of a bundled file."""
    examples = TASKS[name].read(split)
    return [example.text for example in examples], [example.label for example in examples]


@pytest.mark.parametrize("split, count", [("dev", 12), ("train", 60)])
def test_every_pair_of_the_sample_is_found(split, count):
    """Catches a threshold that loses real edits: the sample's README says that all its reviews come in pairs."""
    texts, labels = sample("cfimdb-sample", split)
    found, left_out = find(texts)
    assert len(found) == count and left_out == 0 and len({text for pair in found for text in pair[:2]}) == 2 * count
    assert all(labels[first] != labels[second] for first, second, _ in found)
    assert min(similarity for *_, similarity in found) > module.SIMILAR + 0.1  # far from the threshold


@pytest.mark.parametrize("split", ["dev", "train"])
def test_sentences_on_their_own_are_no_pairs(split):
    """Catches a threshold that pairs any two sentences about films; one near-copy is there, with the same label."""
    texts, labels = sample("sst-sample", split)
    assert not [pair for pair in find(texts)[0] if labels[pair[0]] != labels[pair[1]]]


@pytest.mark.parametrize("task", ["cfimdb", "sst"])
def test_the_courses_dev_files_hold_no_pair(shared, task):
    """Catches chance pairs: CFIMDB as the course has it is the edited half alone, SST was never paired."""
    from dataclasses import replace
    examples = replace(TASKS[task], dev=shared / "data" / f"ids-{task}-dev.csv").read("dev")
    assert find([example.text for example in examples]) == ([], 0)


def test_order_does_not_matter():
    """Catches a search that compares neighbours in the file only."""
    texts, _ = sample("cfimdb-sample", "train")
    order = random.Random(0).sample(range(len(texts)), len(texts))
    expected = {frozenset(pair[:2]) for pair in find(texts)[0]}
    assert {frozenset(order[place] for place in pair[:2]) for pair in find([texts[place] for place in order])[0]} \
        == expected


def test_too_few_words_in_common():
    """Catches a pair of texts on the same film: half of the words are the same, and in another order."""
    words = LONG.split()
    assert len(find([LONG, " ".join(words[:-2] + ["runs", "away"]), "something else"])[0]) == 1
    assert find([LONG, " ".join(reversed(words)), "something else"])[0] == []
    assert find([LONG, " ".join(words[:6]) + " lies in a field of barley and dreams of rain all day long"])[0] == []
    assert find(["This film is so dull.", "This film is so good."])[0] == []  # so short ones are alike by chance


@given(st.lists(st.text("ab ,.", max_size=12), max_size=8))
def test_any_texts(texts):
    """Catches an error on empty texts, texts without a word, and texts that are all the same."""
    if texts:
        found, _ = find(texts)
        assert all(0 <= first < second < len(texts) for first, second, _ in found)


def test_the_nearest_is_the_nearest():
    """Catches an approximation that is off: the oracle is a dense product of TF-IDF rows by scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    texts, _ = sample("cfimdb-sample", "train")
    table = TfidfVectorizer(token_pattern=module.WORD.pattern, ngram_range=(1, 2), binary=True).fit_transform(texts)
    cosines = (table @ table.T).toarray()
    np.fill_diagonal(cosines, -1)
    found = nearest([module.WORD.findall(text.casefold()) for text in texts])
    assert np.array_equal(found, cosines.argmax(axis=1))


def test_a_budget_of_products_loses_no_pair(monkeypatch):
    """Catches a cut that drops rare words, on which pairs hang, and keeps frequent ones, which cost the time."""
    texts, _ = sample("cfimdb-sample", "train")
    expected = [pair[:2] for pair in find(texts)[0]]
    monkeypatch.setattr(module, "PRODUCTS", 20_000)
    monkeypatch.setattr(module, "WORDS", 0)  # 50 words of each text
    assert [pair[:2] for pair in find(texts)[0]] == expected
    monkeypatch.setattr(module, "MOST_COMPARED", 7)
    found, left_out = find(texts)
    assert len(found) == 7 and left_out == 53


@given(st.text("ab,\n ", max_size=40), st.text("ab,\n ", max_size=40))
def test_spans_are_the_text(first, second):
    """Catches an edit that loses white space or a sign; a text without a word has no span."""
    for text, spans in zip((first, second), edit(first, second), strict=True):
        assert "".join(span.text for span in spans) == (text if spans else "") and (spans or not text.strip())


def test_the_edit_is_marked():
    """Catches an edit that is marked letter by letter, or on one side only."""
    first, second = edit("It is not dull, sadly.", "It is never dull.")
    assert [(span.text, span.changed) for span in first] == [
        ("It is ", False), ("not ", True), ("dull", False), (", sadly", True), (".", False)]
    assert [span.text for span in second if span.changed] == ["never "]


def made(tmp_path, *answers, labels):
    """A group whose texts come in pairs that differ in one word, so many as there are answers."""
    words = [f"w{number}" for number in range(200)]
    rng = random.Random(1)
    texts = []
    for _ in range(len(labels) // 2):
        text = rng.sample(words, 14)
        texts += [" ".join(text), " ".join([*text[:5], "turned", *text[6:]])]
    return pairs(group_of(tmp_path, *map(np.array, answers), labels=np.array(labels), texts=texts,
                          number=3))


def test_outcomes_by_hand(tmp_path):
    """Catches pairs of one label that are counted, shares of texts instead of pairs, and seeds that are mixed up."""
    found = made(tmp_path, [0, 1, 1, 0, 0, 0, 2, 2, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
                 labels=[0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
    assert found.total == 4 and found.same_label == 1 and found.at.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found.outcomes.tolist() == [[0, 2, 1, 3], [0, 0, 0, 0]]
    assert [each.value for each in (found.both_right, found.one_right, found.wrong_way, found.both_wrong)] == [
        0.625, 0.125, 0.125, 0.125]
    assert found.unmoved.value == 0.25  # (0, 0) and (2, 2) of eight
    assert found.by_chance == pytest.approx((0.5 * 0.25 + 1) / 2)
    assert [pair.outcome for pair in found.pairs] == ["wrong way", "one right", "both wrong", "both right"]
    assert found.pairs[0].answers == (1, 0) and found.pairs[0].labels == (0, 1)
    assert sum(span.changed for span in found.pairs[0].spans[1]) == 1


def test_none_found(tmp_path):
    """Catches a share of no pairs."""
    labels = np.arange(6) % 2
    found = pairs(group_of(tmp_path, labels, labels=labels, texts=[f"{word} alone" for word in "abcdef"]))
    assert found.total == 0 and found.pairs == () and found.both_right is None and found.outcomes.shape == (1, 0)
