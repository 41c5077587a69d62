"""Predictions against the classifier itself, a text at a time, in float64 and without padding."""

import sys

import pytest
import torch

from data.tokenizer import Tokenizer
from engine.gpt2 import FastGPT2
from finetuning import features
from serving import load
from serving import predictor as module
from tests.serving.conftest import NAMES
from training.parallel.process_group import DeviceError

TEXTS = ["the film is good", "x", "", "The LOVELY film is fine 7 " * 9, "dull", "dull<|endoftext|>", "poor awful",
         "caf\u00e9 \u4e2d\u6587 \U0001f600", "  bad\t"] * 3


@pytest.fixture(scope="module")
def expected(model_folder, folder):
    """The probabilities [N, labels] of TEXTS, in float64."""
    tokenizer, classifier = Tokenizer.load(folder / "model"), model_folder[2].double()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor(tokenizer.encode([text.strip()], 24, lowercase=True).ids)
            rows.append(classifier(ids, torch.ones_like(ids)).softmax(dim=1)[0])
    model_folder[2].float()
    return torch.stack(rows)


@pytest.mark.parametrize("tokens", [features.CPU_TOKENS, 30])
def test_probabilities_are_the_classifiers(model_folder, expected, tokens, monkeypatch):
    """Catches padding that is seen, rows in the order of their lengths, lower-casing or a rule left out."""
    monkeypatch.setattr(features, "CPU_TOKENS", tokens)
    found = load(model_folder[0], "cpu").probabilities(TEXTS)
    assert found.dtype == torch.float64 and torch.allclose(found, expected, atol=1e-6)
    assert len({tuple(row) for row in expected.tolist()}) == len(set(map(str.strip, TEXTS)))


def test_predictions(model_folder, expected):
    """Catches a label that is not the most probable one, or the name of another."""
    answers = load(model_folder[0], "cpu").predict(TEXTS)
    assert [answer.label for answer in answers] == expected.argmax(dim=1).tolist()
    assert len({answer.label for answer in answers}) > 1
    for answer in answers:
        assert answer.name == NAMES[answer.label] and answer.probabilities[answer.label] == max(answer.probabilities)
        assert abs(sum(answer.probabilities) - 1) < 1e-12


def test_no_text_and_one_text(model_folder):
    """Catches a crash where there is nothing to do, and a text taken for a list of letters."""
    model = load(model_folder[0], "cpu")
    assert model.predict([]) == [] and model.probabilities([]).shape == (0, 3)
    with pytest.raises(TypeError, match="a list of texts"):
        model.predict("fine")


def test_a_text_does_not_depend_on_its_neighbours(model_folder):
    """Catches a batch whose padding or order reaches into a prediction."""
    model = load(model_folder[0], "cpu")
    alone = torch.cat([model.probabilities([text]) for text in TEXTS[:9]])
    assert torch.allclose(alone, model.probabilities(TEXTS)[:9], atol=1e-6)


def test_the_engine_serves_where_it_agrees(model_folder, capsys):
    """Catches an engine that is never asked, and lines about it between the predictions."""
    assert isinstance(load(model_folder[0], "cpu").model.gpt.forward.__self__, FastGPT2)
    assert capsys.readouterr().out == ""


def test_the_engine_does_not_serve_where_it_disagrees(model_folder, expected, monkeypatch):
    """Catches answers that are not those of the files that the student wrote."""
    monkeypatch.setattr(FastGPT2, "last_token", lambda self, ids, mask: {"last_token": torch.zeros(len(ids), 32)})
    model = load(model_folder[0], "cpu")
    assert torch.allclose(model.probabilities(TEXTS), expected, atol=1e-6)


def test_without_the_engine(model_folder, expected, monkeypatch):
    """Catches an import of the engine in a copy that has none."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "engine"]:
        monkeypatch.setitem(sys.modules, name, None)
    model = load(model_folder[0], "cpu")
    assert "forward" not in vars(model.model.gpt)
    assert torch.allclose(model.probabilities(TEXTS), expected, atol=1e-6)


def test_a_device_that_is_not_there(model_folder, monkeypatch):
    """Catches a silent change to the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no cuda device"):
        load(model_folder[0], "cuda")
