"""The engine is held to the definition: right definitions agree, wrong ones are found, and the file is named."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine import agree
from engine.gpt2 import FastGPT2
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from modules.attention import CausalSelfAttention
from modules.gpt2_layer import GPT2Layer
from optimizer import AdamW
from tests.mutants import mutate

SMALL = GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=24, num_hidden_layers=3,
                   num_attention_heads=3)
ATTENTION, LAYER, MODEL = "modules/attention.py", "modules/gpt2_layer.py", "models/gpt2.py"


def check(file=None, *edits, logits=False):
    """Agreement of the engine with the definition after edits of one of its files."""
    changed = mutate(file, *edits) if file else None
    gpt = (changed.GPT2Model if file == MODEL else GPT2Model)(SMALL)
    if file == LAYER:
        gpt.gpt_layers = nn.ModuleList(changed.GPT2Layer(SMALL) for _ in range(3))
    if file == ATTENTION:
        for layer in gpt.gpt_layers:
            layer.self_attention = changed.CausalSelfAttention(SMALL)
    return agree.check_gpt2(gpt, 3, 50, logits=logits)


@pytest.mark.parametrize("logits", [False, True])
def test_the_definition_agrees(logits):
    """Catches: a check that refuses what is right, a difference beyond rounding, generators that it disturbs."""
    before = torch.get_rng_state()
    gpt = GPT2Model(SMALL)
    torch.set_rng_state(before)
    agreement = agree.check_gpt2(gpt, 3, 50, logits=logits)
    assert agreement and agreement.difference < 3e-6 and agreement.gelu == "tanh", agreement
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.p for module in gpt.modules() if isinstance(module, nn.Dropout)] == [0.1] * 10


RIGHT = {
    "a finite causal mask": (ATTENTION, [("scores.masked_fill(~causal, -math.inf)",
                                          "scores.masked_fill(~causal, torch.finfo(scores.dtype).min)")]),
    "-1e4 masks": (ATTENTION, [("scores.masked_fill(~causal, -math.inf) + attention_mask",
                                "scores.masked_fill(~causal, -1e4) + attention_mask.clamp(min=-1e4)")]),
    "mask arithmetic": (ATTENTION, [("query = self.split", "attention_mask = attention_mask + 0.0\n"
                                     "        query = self.split")]),
    "einsum": (ATTENTION, [("query @ key.transpose(-2, -1)", "torch.einsum('bhid,bhjd->bhij', query, key)")]),
    "exact GELU": (LAYER, [(', approximate="tanh"', "")]),
    "GELU spelt out": (LAYER, [(
        'F.gelu(self.interm_dense(self.out_layer_norm(x)), approximate="tanh")',
        "(lambda y: 0.5 * y * (1 + (0.7978845608 * (y + 0.044715 * y ** 3)).tanh()))"
        "(self.interm_dense(self.out_layer_norm(x)))")]),
    "the last token by counting tokens": (MODEL, [
        ("(attention_mask.ne(0) * torch.arange(T, device=input_ids.device)).argmax(dim=1)",
         "attention_mask.sum(dim=1) - 1")]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_in_another_way(name):
    """Catches: a check that knows one way to be right."""
    file, edits = RIGHT[name]
    agreement = check(file, *edits)
    assert agreement, agreement
    assert agreement.gelu == ("none" if name == "exact GELU" else "tanh")


WRONG = {  # name: (file, part of the condition, edits)
    "no scale": (ATTENTION, "eval", [(" / math.sqrt(hs)", "")]),
    "no causal mask": (ATTENTION, "eval", [("scores.masked_fill(~causal, -math.inf)", "scores")]),
    "padding ignored": (ATTENTION, "eval", [(" + attention_mask", "")]),
    "no attention dropout": (ATTENTION, "attention's dropout", [("self.dropout(scores.softmax(dim=-1))",
                                                                 "scores.softmax(dim=-1)")]),
    "dropout before the softmax": (ATTENTION, "attention's dropout", [
        ("self.dropout(scores.softmax(dim=-1))", "self.dropout(scores.clamp(min=-1e4)).softmax(dim=-1)")]),
    "a dropout probability of its own": (ATTENTION, "training", [
        ("self.dropout(scores.softmax(dim=-1))",
         "nn.functional.dropout(scores.softmax(dim=-1), 0.5, self.training)")]),
    "dropout in eval mode": (ATTENTION, "eval", [
        ("self.dropout(scores.softmax(dim=-1))", "nn.functional.dropout(scores.softmax(dim=-1), 0.5)")]),
    "value detached": (ATTENTION, "eval", [("mixed = weights @ value", "mixed = weights @ value.detach()")]),
    "first residual missing": (LAYER, "eval", [("x = x + self.attention_dropout", "x = self.attention_dropout")]),
    "second residual missing": (LAYER, "eval", [("return x + self.out_dropout", "return self.out_dropout")]),
    "zero": (LAYER, "eval", [("return x + self", "return 0 * x + 0 * self")]),
    "no attention_dropout": (LAYER, "attention_dropout", [
        ("self.attention_dropout(self.attention_dense(attended))", "self.attention_dense(attended)")]),
    "no out_dropout": (LAYER, "out_dropout", [("self.out_dropout(self.out_dense(inner))", "self.out_dense(inner)")]),
    "ReLU": (LAYER, "eval", [('F.gelu(self.interm_dense(self.out_layer_norm(x)), approximate="tanh")',
                              "F.relu(self.interm_dense(self.out_layer_norm(x)))")]),
    "no positions": (MODEL, "eval", [(" + self.pos_embedding(positions)", "")]),
    "no embed_dropout": (MODEL, "embed_dropout", [
        ("self.embed_dropout(self.word_embedding(input_ids) + self.pos_embedding(positions))",
         "self.word_embedding(input_ids) + self.pos_embedding(positions)")]),
    "first layer only": (MODEL, "eval", [("for layer in self.gpt_layers:\n            hidden",
                                          "for layer in self.gpt_layers[:1]:\n            hidden")]),
    "no final norm": (MODEL, "eval", [("self.final_layer_norm(self.encode(", "(self.encode(")]),
    "last position": (MODEL, "eval", [(".argmax(dim=1)  # [B]", ".argmax(dim=1) * 0 + T - 1")]),
    "no gradient": (MODEL, "eval", [
        ("hidden_states = self.final", "with torch.no_grad(): hidden_states = self.final")]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name):
    """Catches: a definition that is silently passed by, or a file blamed that is right."""
    file, condition, edits = WRONG[name]
    agreement = check(file, *edits)
    assert not agreement and agreement.file.startswith(file) and condition in agreement.condition, agreement
    assert "your code runs, slower" in str(agreement) and "\n" not in str(agreement)


@pytest.mark.parametrize("file, old, new", [
    ("engine/gpt2.py", "x[texts, last] + attended", "attended"),
    ("engine/gpt2.py", "normed[texts, last, None]", "normed[texts, 0 * last, None]"),
    ("engine/gpt2.py", "self.run(self.gpt.gpt_layers, self.embed(input_ids), visible)",
     "self.run(self.gpt.gpt_layers, self.embed(input_ids), None)"),
    ("engine/gpt2.py", "return x + dropout(rows(out, x), layer.out_dropout)", "return x + rows(out, x)"),
    ("engine/gpt2.py", "attended = dropout(layer.attention_dense(attended), layer.attention_dropout)",
     "attended = layer.attention_dense(attended)"),
    ("engine/gpt2.py", "visible, active(module.dropout)).flatten", "visible, 0.0).flatten"),
    ("engine/gpt2.py", "self.gpt.final_layer_norm(x)}", "x}"),
    ("engine/gpt2.py", "+ positions, gpt.embed_dropout", "+ positions, nn.Dropout(0.0)"),
    ("engine/gpt2.py", "mul_(0.044715 * GELU_SCALE)", "mul_(0.04 * GELU_SCALE)"),
    ("engine/gpt2.py", "torch.addmm(module.bias[:, None]", "torch.addmm(0 * module.bias[:, None]"),
])
def test_a_mutant_of_the_engine_is_found(file, old, new):
    """Catches: a check too weak to see a mistake in the engine itself."""
    mutant = mutate(file, (old, new))
    gpt = GPT2Model(SMALL)
    assert not agree.compare_gpt2(gpt, mutant.FastGPT2(gpt, 3), 50)
    assert agree.compare_gpt2(gpt, FastGPT2(gpt, 3), 50)


@pytest.mark.parametrize("old, new", [
    ("rows = moving.nonzero()[:, 0]", "rows = grad.indices()[0]"),
    ("[values[place[block]]]", "[values[place[block] - 1]]"),
    ("for tensor, part in zip((p, first, second)", "for tensor, part in zip((p, first)"),
    ("eps, steps = eps / math.sqrt(1 - beta2**t), float(t)", "steps = float(t)"),
])
def test_a_mutant_of_the_fast_adamw_is_found(monkeypatch, old, new):
    """Catches: the same for AdamW: rows in motion that are left, a gradient of another row, moments that are lost."""
    monkeypatch.setattr(agree, "FastAdamW", mutate("engine/adamw.py", (old, new)).FastAdamW)
    assert not agree.check_adamw(AdamW)


def test_what_breaks_cannot_be_compared():
    """Catches: a traceback out of a check; a hole taken for a mistake."""
    agreement = check(ATTENTION, ("T, hs = query.shape[-2:]", "raise RuntimeError('my own\\nmistake')"))
    assert agreement.difference == math.inf
    assert "cannot be compared (RuntimeError: my own)" in str(agreement)
    with pytest.raises(NotImplementedError):
        check(ATTENTION, ("T, hs = query.shape[-2:]", "raise NotImplementedError"))


class HatAdamW(AdamW):
    """The textbook's form: eps is added to the corrected root."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * p.grad
                v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * p.grad**2
                c1, c2 = (1 - beta1**t, 1 - beta2**t) if group["correct_bias"] else (1, 1)
                p -= group["lr"] * (m / c1) / ((v / c2).sqrt() + group["eps"])
                p -= group["lr"] * group["weight_decay"] * p


def test_adamw_agrees():
    """Catches: a check that refuses the definition, or another layout of the same method's state."""
    assert agree.check_adamw(AdamW).difference < 3e-6
    hat = agree.check_adamw(HatAdamW)
    assert not hat and hat.file == "optimizer.py"  # right in another way, but not the same numbers: it runs as it is


@pytest.mark.parametrize("old, new", [
    ('if group["correct_bias"]:', "if True:"),
    ('add_(group["eps"])', "add_(1e-8)"),
    ("lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)", "lr / (1 - beta1**t)"),
    ('p.add_(p, alpha=-lr * group["weight_decay"])', 'p.add_(p, alpha=-step_size * group["weight_decay"])'),
    ('p.add_(p, alpha=-lr * group["weight_decay"])', "pass"),
    ("lr, (beta1, beta2) = group", 'lr, (beta1, beta2) = self.defaults["lr"], group["betas"]; _ = group'),
    ("if p.grad is None:\n                    continue",
     "if p.grad is None:\n                    p.mul_(0.9); continue"),
    ("v.sqrt().add_(", "v.add(1e-3).sqrt().add_("),
])
def test_a_wrong_adamw_is_found(old, new):
    """Catches: an option, a group or a gradient that the comparison does not try."""
    agreement = agree.check_adamw(mutate("optimizer.py", (old, new)).AdamW)
    assert not agreement and agreement.file == "optimizer.py"
    crash = agree.check_adamw(mutate("optimizer.py", ('if group["correct_bias"]:', "step_size = None\n                "
                                                     'if group["correct_bias"]:')).AdamW)
    assert "correct_bias=False" in str(crash) and "cannot be compared" in str(crash)


def test_the_report(capsys):
    """Catches: one line too many where all agrees, a difference that is not told."""
    good, bad = agree.Agreement(3e-7), agree.Agreement(0.31, LAYER, "with attention_dropout at 1")
    agree.report(good, agree.Agreement(1e-7))
    assert capsys.readouterr().out == "engine: agrees with your code to 3e-07\n"
    agree.report(good, bad)
    assert capsys.readouterr().out == (
        "engine: modules/gpt2_layer.py differs by 0.31 (with attention_dropout at 1): your code runs, slower\n")


def test_parts_of_other_origin():
    """Catches: a comparison that needs classes of ours, or attributes beyond the contract's."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(24, 24) for _ in range(3))
            self.dropout = nn.Dropout(0.1)

        def forward(self, hidden_states, attention_mask):
            q, k, v = (part(hidden_states).unflatten(-1, (3, 8)).transpose(1, 2)
                       for part in (self.query, self.key, self.value))
            T = q.shape[2]
            mask = attention_mask + torch.full((T, T), -1e4, device=q.device).triu(1)
            weights = self.dropout(F.softmax(q @ k.mT * 8**-0.5 + mask.clamp(min=-1e4), dim=-1))
            return (weights @ v).transpose(1, 2).reshape(hidden_states.shape)

    gpt = GPT2Model(SMALL)
    for layer in gpt.gpt_layers:
        layer.self_attention = Attention()
        assert isinstance(layer, GPT2Layer) and not isinstance(layer.self_attention, CausalSelfAttention)
    del gpt.config
    assert agree.check_gpt2(gpt, 3, 50)
