"""The most confident mistakes, the words of some, and a deletion curve that can say no."""

import shutil
import time

import numpy as np
import pytest

import serving
from report.mistakes import deletion, mistakes
from report.read import load_groups
from serving.explain import Explanation
from tests.report.folders import group_of, logits_for, write, write_run
from tests.serving.conftest import folder, model_folder  # noqa: F401 (fixtures)

LABELS = np.array([0, 1, 0, 1, 0, 1])
SURE = np.array([1.0, 3.0, 2.0, 4.0, 0.5, 9.0])  # of the wrong answer; the last text is right
ANSWERS = np.array([1, 0, 1, 0, 1, 1])
LOGITS = logits_for(ANSWERS[None]) * SURE[None, :, None]


class Model:
    """Stands in for a predictor: label 1's probability is 0.9 with the word “good”, else 0.2."""

    def __init__(self, seconds=0.0):
        self.seconds, self.read = seconds, []

    def explain(self, text):
        time.sleep(self.seconds)
        self.read.append(text)
        return Explanation(1, 0.9, 0.2, (("a", 0.0), ("good", 0.65), ("film", 0.02), (".", 0.0)))

    def probabilities(self, texts, bar):
        import torch
        p = torch.tensor([0.9 if "good" in text.split() else 0.2 for text in texts], dtype=torch.float64)
        return torch.stack([1 - p, p], dim=1)


@pytest.fixture
def group(tmp_path):
    """A run with five mistakes, and a model folder that is never read."""
    run = write_run(tmp_path / "run", LOGITS, LABELS)
    (run / "model").mkdir()
    write(run / "model" / "serving.json", {"files": {"model.safetensors": "5" * 64}})
    return load_groups([run])[0]


@pytest.fixture
def model(monkeypatch):
    """The stand-in, which serving.load gives out."""
    stand_in = Model()
    monkeypatch.setattr(serving, "load", lambda run: stand_in)
    return stand_in


def test_the_most_confident_come_first(group, model):
    """Catches right answers among the mistakes, and an order by anything but the answer's probability."""
    found = mistakes(group, 2, float("inf"))
    assert [each.text for each in found.mistakes] == [3, 1, 2, 0, 4] and found.total == 5 and found.run == 0
    first = found.mistakes[0]
    assert (first.label, first.answer, first.seeds_wrong) == (1, 0, 1)
    assert first.probability == pytest.approx(1 / (1 + np.exp(-8))) and first.probability + first.of_label == 1
    assert model.read == [group.dev.texts[3], group.dev.texts[1]] and found.explained == 2
    assert [each.words is not None for each in found.mistakes] == [True, True, False, False, False]
    assert first.words.error == pytest.approx(0.03) and first.words.words[1] == ("good", 0.65)
    assert "2 of 5" in found.why_not_all and "In 2 of 2 texts" in found.checked


def test_nothing_is_loaded_for_nothing(group, monkeypatch):
    """Catches PyTorch imported, and a model read, where no words are asked for."""
    monkeypatch.setattr(serving, "load", lambda run: pytest.fail("loaded"))
    found = mistakes(group, 0, float("inf"))
    assert found.explained == 0 and len(found.mistakes) == 5 and found.checked is None


def test_the_time_is_kept(group, model):
    """Catches a budget that is looked at once: with 0.2 s each, two fit into 0.5 s and a third is not begun."""
    model.seconds = 0.2
    found = mistakes(group, 5, 0.5)
    assert 1 <= found.explained < 5 and "Time was up" in found.why_not_all
    assert mistakes(group, 5, -1.0).explained == 0


def test_all_explained(group, model):
    """Catches a reason given where none is needed."""
    assert mistakes(group, 9, float("inf")).why_not_all is None


def test_without_a_model_or_without_mistakes(tmp_path):
    """Catches an error where model/ was removed, or where everything is right."""
    found = mistakes(load_groups([write_run(tmp_path / "run", LOGITS, LABELS)])[0], 3, float("inf"))
    assert found.explained == 0 and "no model" in found.why_not_all
    none = mistakes(group_of(tmp_path / "right", LABELS, labels=LABELS), 3, float("inf"))
    assert none.mistakes == () and none.why_not_all is None and none.checked is None


def test_the_run_in_the_middle(tmp_path):
    """Catches the best seed's mistakes shown as if they were typical."""
    answers = [np.where(np.arange(6) < right, LABELS, 1 - LABELS) for right in (6, 1, 3)]
    found = mistakes(group_of(tmp_path, *answers, labels=LABELS), 0, 0.0)
    assert found.run == 2 and found.total == 3 and [each.seeds_wrong for each in found.mistakes] == [2, 2, 2]


def test_a_deletion_curve_by_hand():
    """Catches words that are taken out from the wrong end, and a check that always says yes."""
    words = [(word, share) for word, share in zip("abcdefghij", np.linspace(1, 0, 10), strict=True)]

    def first_counts(texts):
        return np.array([0.9 if "a" in text.split() else 0.1 for text in texts])

    found = deletion(words, first_counts)
    assert found.removed.tolist() == [0, 0.1, 0.2, 0.3, 0.5, 0.8, 1] and found.holds  # 0.05 of ten words is none
    assert found.by_share.tolist() == [0.9, *[0.1] * 6] and found.at_random[0] == 0.9 and found.at_random[-1] == 0.1

    def last_counts(texts):
        return np.array([0.9 if "j" in text.split() else 0.1 for text in texts])

    assert not deletion(words, last_counts).holds  # shares that point at the wrong word
    assert not deletion(words, lambda texts: np.full(len(texts), 0.5)).holds


@pytest.mark.parametrize("count", [0, 1, 2])
def test_very_short_texts(count):
    """Catches an error on a text without a word."""
    found = deletion([("a", 1.0)] * count, lambda texts: np.full(len(texts), 0.5))
    assert found.removed[0] == 0 and len(found.by_share) == len(found.removed)


def test_a_real_model(model_folder, tmp_path):  # noqa: F811
    """Catches words, probabilities or labels that are not the model's own; a classifier of random weights."""
    run = model_folder[0]
    texts = ["The lovely film is not dull", "So so", ""]
    probabilities = serving.load(run, "cpu").probabilities(texts).numpy()
    wrong = (probabilities.argmax(axis=1) + 1) % 3
    write_run(tmp_path / "run", np.log(probabilities)[None], wrong, texts=texts)
    (tmp_path / "run" / "model").symlink_to(run / "model")
    group, = load_groups([tmp_path / "run"])
    assert mistakes(group, 3, float("inf")).explained == 0  # a link: not followed
    (tmp_path / "run" / "model").unlink()
    shutil.copytree(run / "model", tmp_path / "run" / "model")
    found = mistakes(load_groups([tmp_path / "run"])[0], 3, float("inf"))
    assert found.explained == 3
    for each in found.mistakes:
        assert each.words.probability == pytest.approx(each.probability, abs=1e-5)
        shares = sum(share for _, share in each.words.words)
        assert each.words.error == pytest.approx(each.probability - each.words.blank - shares, abs=1e-5)
        assert " ".join(word for word, _ in each.words.words) == texts[each.text].lower()
        assert each.words.deletion.by_share[0] == pytest.approx(each.probability, abs=1e-5)
