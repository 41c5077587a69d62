"""Integrated gradients against captum, against a model whose shares are known, and against their own theorem."""

import math

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from common.errors import UserError
from data.tokenizer import Tokenizer
from serving import explain as module
from serving import load
from serving.explain import integrated_gradients
from tests.serving.conftest import write_model

TEXT = "The lovely film is not dull"


class Bag(nn.Module):
    """The logit of label 1 is the sum of the words' numbers; its probability is sigmoid(sum)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor([[0.5], [-2.5], [1.0], [0.0]]))

    def forward(self, ids, mask):
        total = self.embedding(ids).sum(dim=1)
        return torch.cat([torch.zeros_like(total), total], dim=1)


def test_known_shares():
    """Catches a wrong interval, weights that do not sum to 1, or another label's gradient.

    The line goes through sum * alpha, so each word's share of sigmoid(sum) - 1/2 is its number's share of the sum.
    """
    bag = Bag()
    shares, blank, probability = integrated_gradients(bag, bag.embedding, torch.tensor([[0, 1, 2, 2, 3]]), 1)
    assert blank == 0.5 and probability == pytest.approx(0.5, abs=1e-7)  # the numbers sum to 0
    assert shares.tolist() == pytest.approx([0.125, -0.625, 0.25, 0.25, 0.0], abs=1e-7)  # so the slope is 1/4 all along
    shares, _, probability = integrated_gradients(bag, bag.embedding, torch.tensor([[0, 1]]), 0)
    whole = 1 / (1 + math.exp(-2)) - 0.5
    assert probability == pytest.approx(whole + 0.5) and shares.tolist() == pytest.approx([-whole / 4, whole * 5 / 4])
    assert not bag.embedding._forward_hooks


@pytest.mark.parametrize("tokens", [module.TOKENS, 20])
def test_the_same_as_captum(model_folder, folder, tokens, monkeypatch):
    """Catches anything that is not integrated gradients; captum's own, on the definition without the engine."""
    monkeypatch.setattr(module, "TOKENS", tokens)  # few at a time: the points of the rule come in several batches
    classifier = model_folder[2]
    ids = torch.tensor(Tokenizer.load(folder / "model").encode([TEXT], 24, True).ids)
    vectors = classifier.gpt.word_embedding(ids).detach()

    def probability(vectors):
        hook = classifier.gpt.word_embedding.register_forward_hook(lambda *_: vectors)
        try:
            many = ids.expand(len(vectors), -1)
            return classifier(many, torch.ones_like(many)).softmax(dim=1)
        finally:
            hook.remove()

    label = int(probability(vectors).argmax())
    wanted = IntegratedGradients(probability).attribute(vectors, target=label, method="gausslegendre",
                                                        n_steps=module.STEPS).sum(dim=2)[0]
    served = load(model_folder[0], "cpu").model
    shares, blank, _ = integrated_gradients(served.classifier, served.gpt.word_embedding, ids, label)
    assert shares.abs().max() > 1e-3 and torch.allclose(shares.float(), wanted, atol=1e-6)
    assert blank == pytest.approx(probability(torch.zeros_like(vectors))[0, label].item(), abs=1e-6)


@pytest.mark.parametrize("text", [TEXT, "good", "bad " * 60, "caf\u00e9 \u4e2d\u6587 \U0001f600 dull"])
def test_the_shares_are_complete(model_folder, text):
    """Catches shares that are lost on the way from tokens to words: they must sum to p(text) - p(blank)."""
    model = load(model_folder[0], "cpu")
    found = model.explain(text)
    answer, = model.predict([text])
    assert found.label == answer.label and found.probability == pytest.approx(answer.probabilities[answer.label],
                                                                              abs=1e-6)
    assert abs(found.error) < 1e-3 < abs(found.probability - found.blank)


def test_words(model_folder):
    """Catches words in the form of the file, split at tokens, or that the model never saw."""
    model = load(model_folder[0], "cpu")
    assert [word for word, _ in model.explain(f"  {TEXT}!").words] == ["the", "lovely", "film", "is", "not", "dull!"]
    assert [word for word, _ in model.explain("dull \u4e2d\u6587x").words] == ["dull", "\u4e2d", "\u6587", "x"]
    assert 0 < len(model.explain("film " * 60).words) <= 24  # the longest text has 24 tokens
    assert model.explain("").words == model.explain(" ").words == ()


def test_words_of_a_text_whose_end_is_kept(model_folder, folder, tmp_path):
    """Catches shares of the end that are shown at the beginning's words."""
    write_model(folder / "model", tmp_path / "model", max_length=6, keep_end=True)
    model = load(tmp_path, "cpu")
    text = "dull " * 9 + "the film is good"
    words = model.explain(text).words
    assert [word for word, _ in words][-3:] == ["film", "is", "good"] and len(words) < 13
    ids, = model.model.encode([text])
    shares = integrated_gradients(model.model.classifier, model.model.gpt.word_embedding, torch.tensor([ids]),
                                  model.predict([text])[0].label)[0]
    assert len(ids) == 6 and sum(share for _, share in words) == pytest.approx(float(shares.sum()))
    assert words[-1][1] == pytest.approx(float(shares[-len(model.model.encode([" good"])[0]):].sum()), abs=1e-6)


def test_each_share_is_at_its_word(model_folder):
    """Catches shares that are shifted by a word: without a word of large share the probability falls."""
    model = load(model_folder[0], "cpu")
    found = model.explain(TEXT)
    tokens = model.model.tokenizer
    ids = torch.tensor(model.model.encode([TEXT]))
    shares = integrated_gradients(model.model.classifier, model.model.gpt.word_embedding, ids, found.label)[0]
    lengths = [len(tokens.encode([text], 24, True).ids[0]) for text in ("the", *(f" {word}" for word, _ in
                                                                                 found.words[1:]))]
    assert sum(lengths) == len(shares)
    assert [share for _, share in found.words] == pytest.approx([float(part.sum()) for part in shares.split(lengths)])


def test_a_backbone_without_a_module_for_words(model_folder, monkeypatch):
    """Catches a traceback, or shares of zero, where the student's code reads the weights past the module."""
    model = load(model_folder[0], "cpu")
    monkeypatch.setattr(type(model.model.gpt.word_embedding), "forward", lambda self, ids: self.weight[ids])
    monkeypatch.setattr(type(model.model.gpt.word_embedding), "__call__", lambda self, ids: self.weight[ids])
    with pytest.raises(UserError, match=r"does not call self\.word_embedding"):
        model.explain(TEXT)
