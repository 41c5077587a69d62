"""LastTokenGPT2 against GPT2Model: the same vector of each row's last token, the same gradients, errors and weights."""

import pytest
import torch

from models.config import GPT2Config
from models.gpt2 import GPT2Model
from models.last_token import LastTokenGPT2, attend_from
from sanity.checks import randomise

MASKS = {
    "no padding": [[1] * 7] * 4,
    "right padding": [[1] * n + [0] * (7 - n) for n in (7, 1, 4, 6)],
    "holes": [[1, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
}


def both(layers: int = 3, dropout: float = 0.0, **changes) -> tuple[GPT2Model, LastTokenGPT2]:
    """The two models in float64, with the same random weights, LayerNorms included."""
    config = GPT2Config(vocab_size=50, max_position_embeddings=16, hidden_size=24, num_hidden_layers=layers,
                        num_attention_heads=3, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
                        **changes)
    full = randomise(GPT2Model(config)).double()
    lean = LastTokenGPT2(config).double()
    lean.load_state_dict(full.state_dict())
    return full, lean


def outputs(model: GPT2Model, mask: list[list[int]]) -> list[torch.Tensor]:
    """last_token, and the gradient of a function of it for every parameter."""
    ids = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))
    last_token = model(ids, torch.tensor(mask))["last_token"]
    return [last_token, *torch.autograd.grad(last_token.sin().sum(), list(model.parameters()))]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "by hand"])
def test_it_is_the_same_vector(mask, layers, fused):
    """Catches: another position or mask, a missing norm, a block left out, a gradient that does not arrive."""
    full, lean = both(layers, fused_attention=fused)
    for ours, want in zip(outputs(lean, mask), outputs(full, mask), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-9, atol=1e-11)


def test_gradient_checkpointing_changes_nothing():
    """Catches: blocks recomputed with other inputs, or with other random numbers in their dropouts."""
    _, lean = both(dropout=0.3)
    results = []
    for lean.gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        results.append(outputs(lean.train(), MASKS["holes"]))
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_dropout_is_everywhere_it_should_be():
    """Catches: a dropout of the last block forgotten, or active in eval mode."""
    for name in ("self_attention.dropout", "attention_dropout", "out_dropout"):
        _, lean = both()
        lean.train().gpt_layers[-1].get_submodule(name).p = 0.5
        ids, mask = torch.randint(0, 50, (4, 7)), torch.ones(4, 7)
        assert not torch.equal(lean(ids, mask)["last_token"], lean(ids, mask)["last_token"]), name
        lean.eval()
        assert torch.equal(lean(ids, mask)["last_token"], lean(ids, mask)["last_token"]), name


def test_the_last_block_works_on_one_token_a_row():
    """Catches: a fast way that is none."""
    _, lean = both()
    rows = []
    final = lean.gpt_layers[-1]
    for part in (final.interm_dense, final.self_attention.query, final.self_attention.key, final.self_attention.value):
        part.register_forward_hook(lambda module, inputs, output: rows.append(tuple(output.shape)))
    lean(torch.zeros(4, 7, dtype=torch.int64), torch.ones(4, 7))
    assert rows == [(4, 24), (4, 96)]  # a query a row, no keys, no values


def test_bad_inputs_are_refused_as_before():
    """Catches: left padding or too long a text that passes unnoticed."""
    _, lean = both()
    with pytest.raises(ValueError, match="pad on the right"):
        lean(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 1], [0, 1, 1]]))
    with pytest.raises(ValueError, match="too long"):
        lean(torch.zeros(1, 17, dtype=torch.int64), torch.ones(1, 17))


def test_attention_without_keys_and_values_drops_the_same_weights():
    """Catches: the value bias added whole where dropped weights no longer sum to 1, and weights not scaled up."""
    _, lean = both()
    attention = lean.train().gpt_layers[-1].self_attention
    attention.dropout.p = 0.5
    x, tokens = torch.randn(4, 24).double(), torch.randn(4, 7, 24).double()
    visible = torch.tensor(MASKS["holes"]).bool()
    torch.manual_seed(1)
    ours = attend_from(attention, x, tokens, visible)
    query, key, value = (attention.split_heads(part(y)) for part, y in (
        (attention.query, x[:, None]), (attention.key, tokens), (attention.value, tokens)))
    scores = (query @ key.transpose(-2, -1) / 8**0.5).masked_fill(~visible[:, None, None], float("-inf"))
    torch.manual_seed(1)
    want = attention.dropout(scores.softmax(dim=-1)) @ value
    torch.testing.assert_close(ours, want.flatten(1), rtol=1e-9, atol=1e-11)
