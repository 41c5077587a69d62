"""Check GPT2SentimentClassifier: how it uses GPT-2's output, and which parameters it trains."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gpt2 import GPT2Model
from models.pretrained import backbone_given
from sanity.checks import Result, compare, difference, randomise

C, LABELS = 24, 5
IDS = torch.arange(12).view(3, 4)
MASK = torch.ones_like(IDS)


class StubGPT2(nn.Module):
    """Replaces GPT-2. Its outputs are far apart, so that a check can tell which one the head reads."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(12, C)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
        hidden = self.dropout(self.word_embedding(input_ids))
        seen = 1.0 if attention_mask is None else attention_mask.float().mean(dim=1, keepdim=True)
        return {"last_hidden_state": hidden, "last_token": hidden[:, 1] * seen}


def build(classifier: type[nn.Module], mode: str, labels: int = LABELS, dropout: float = 0.0) -> nn.Module:
    """Return a classifier on a StubGPT2, with random weights, in eval mode."""
    config = SimpleNamespace(num_labels=labels, hidden_size=C, hidden_dropout_prob=dropout, fine_tune_mode=mode)
    with backbone_given(GPT2Model, StubGPT2()):
        return randomise(classifier(config)).eval()


@torch.no_grad()
def logits(classifier: type[nn.Module]) -> Result:
    """logits [B, num_labels] of last_token, not normalised"""
    for labels in (2, LABELS):
        model = build(classifier, "full-model", labels, dropout=0.5)
        got = model(IDS, MASK)
        if difference(got, torch.zeros(3, labels)) == math.inf:
            what = f"a {type(got).__name__}" if not isinstance(got, Tensor) else (
                "NaN" if got.shape == (3, labels) else f"shape {list(got.shape)}")
            return Result(math.inf, mistake=f"expected finite logits of shape [3, {labels}] ([B, num_labels]), not "
                                            f"{what}")
        normalised = min(difference(got, F.softmax(got, dim=-1)), difference(got, F.log_softmax(got, dim=-1)))
        if normalised < 1e-5 or difference(got.sum(dim=-1), torch.ones(3)) < 1e-5:
            return Result(math.inf, mistake="these are probabilities: return the logits; cross_entropy applies the "
                                            "softmax itself")
        if bool(((got > 0) & (got < 1)).all()):
            return Result(math.inf, mistake="every logit lies between 0 and 1: return them without a sigmoid")

    if difference(model(IDS, MASK), got) > 0:
        return Result(math.inf, mistake="two calls in eval mode differ: something random is active")
    other = IDS.clone()
    other[:, [0, 2, 3]] = 0  # the stub's last_token is at position 1
    moved = difference(model(other, MASK), got)
    if moved > 0:
        return Result(moved, mistake="the head reads other tokens' vectors: its input is last_token, not "
                                     "last_hidden_state")
    unmasked = difference(model(IDS, MASK.tril()), got) == 0
    return Result(math.inf if unmasked else moved, mistake=(
        "GPT-2 is not given attention_mask: it would take padding for words"))


@torch.no_grad()
def dropout(classifier: type[nn.Module]) -> Result:
    """hidden_dropout_prob of 1: the logits are the bias alone"""
    model = build(classifier, "last-linear-layer", dropout=1.0).train()
    bias = [p for p in model.parameters() if p.shape == (LABELS,)][-1]
    want = bias.expand(3, LABELS)
    got = model(IDS, MASK)

    # With the config's probability at 0, and GPT-2's, nothing may be dropped.
    fixed = build(classifier, "last-linear-layer", dropout=0.0)
    for module in fixed.modules():
        if isinstance(module, StubGPT2):
            module.dropout.p = 0.0
    if difference(fixed.train()(IDS, MASK), fixed.eval()(IDS, MASK)) > 0:
        return Result(math.inf, mistake="dropout has a probability of its own: take config.hidden_dropout_prob")
    return compare(got, want, [
        ("dropout is applied to the logits; it belongs before the linear layer", torch.zeros(3, LABELS)),
        ("nothing is dropped: hidden_dropout_prob is not used", model.eval()(IDS, MASK)),
    ])


def frozen(classifier: type[nn.Module]) -> Result:
    """last-linear-layer: a step moves the head and nothing else"""
    model = build(classifier, "last-linear-layer")
    own = {id(p) for module in model.modules() if isinstance(module, StubGPT2) for p in module.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return Result(math.inf, mistake="the head is frozen too: freeze the parameters of self.gpt only")
    moved = moved_by_a_step(model)
    if min(distance for name, distance in moved.items() if name not in names) == 0.0:
        return Result(math.inf, mistake="a part of the head is frozen too: freeze the parameters of self.gpt only")
    return Result(max(moved[name] for name in names), 0.0,
                  "GPT-2 is trained: set requires_grad to False on its parameters")


def trained(classifier: type[nn.Module]) -> Result:
    """full-model: a step moves every parameter"""
    moved = moved_by_a_step(build(classifier, "full-model"))
    still = [name for name, value in moved.items() if value == 0.0]
    return Result(math.inf if still else 0.0, 0.0,
                  f"not trained: {', '.join(still)}: is requires_grad False, or is there a no_grad?")


def moved_by_a_step(model: nn.Module) -> dict[str, float]:
    """Do one step of gradient descent with weight decay; return how far each parameter moves."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    F.cross_entropy(model.train()(IDS, MASK), torch.tensor([0, 1, 2])).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * (parameter.grad + 0.1 * parameter)
    return {name: difference(parameter.detach(), before[name]) for name, parameter in model.named_parameters()}


CHECKS = [logits, dropout, frozen, trained]
