"""The questions of `sanity_check.py --predict`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.config import GPT2Config
from modules.attention import CausalSelfAttention
from optimizer import AdamW
from sanity.questions import QUESTIONS, answers, ask


def wanted(part, number):
    return QUESTIONS[part][number]["answer"]


def moved(start=1.0, gradient=0.3, **options):
    p = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    p.grad = torch.full_like(p, gradient)
    AdamW([p], **options).step()
    return p.item() - start


def test_the_answers_are_what_the_code_does():
    """Catches: an answer that teaches something wrong."""
    assert moved() == pytest.approx(*wanted("optimizer", 0), rel=1e-3)
    assert moved(correct_bias=False) == pytest.approx(*wanted("optimizer", 1), rel=1e-3)
    assert 2 + moved(2.0, 0.0, lr=0.1, weight_decay=0.5) == pytest.approx(*wanted("optimizer", 2))
    shapes = []
    module = CausalSelfAttention(GPT2Config(hidden_size=8, num_attention_heads=4))
    module.dropout.register_forward_hook(lambda _, inputs, weights: shapes.append((list(weights.shape), inputs[0])))
    module.eval()(torch.randn(2, 5, 8), torch.zeros(2, 1, 1, 5))
    (shape, weights), = shapes
    assert shape == wanted("attention", 0)
    assert [column + 1 for column in range(5) if weights[0, 0, 2, column] > 0] == wanted("attention", 1)
    assert weights[0, 0, 2].sum().item() == pytest.approx(*wanted("attention", 2))
    assert F.gelu(torch.tensor(0.0), approximate="tanh").item() == wanted("layer", 2)[0]
    z = torch.zeros(1, 2, requires_grad=True)
    loss = F.cross_entropy(z, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(*wanted("head", 1), abs=1e-3) and z.grad[0].tolist() == wanted("head", 2)


@pytest.mark.parametrize("text, right", [
    ("2 4 5 5", True), ("[2, 4, 5, 5]", True), ("2x4x5x5", True), ("2 4 5", False), ("5 5 4 2", False), ("", False),
])
def test_how_a_shape_may_be_written(text, right):
    """Catches: a right answer refused for its brackets, a wrong one taken."""
    assert answers(text, [2, 4, 5, 5]) is right


@pytest.mark.parametrize("text, right", [
    ("-0.001", True), ("−0.001", True), ("-1e-3", True), ("-1/1000", True), ("0.001", False), ("-0.00316", False),
    ("1/0", False), ("about 0.001 less, -0.001", False),
])
def test_how_a_number_may_be_written(text, right):
    """Catches: a sign that does not matter, a division by zero that ends the checks."""
    assert answers(text, [-0.001]) is right


def test_a_wrong_answer_is_explained(capsys):
    """Catches: questions that only say "wrong", or that never end without a terminal."""
    typed = iter(["2 4 5 5", "all", "1"])
    assert ask("attention", lambda prompt: next(typed)) == 2
    assert "it is 1 2 3" in capsys.readouterr().out

    def nothing(prompt):
        raise EOFError
    assert ask("attention", nothing) == 0


def test_every_part_has_three():
    """Catches: a part whose questions were forgotten, or an answer that is no list of numbers."""
    for questions in QUESTIONS.values():
        assert len(questions) == 3
        assert all(np.isfinite(question["answer"]).all() for question in questions)
