"""GPT2Layer against PyTorch's pre-norm layer and Hugging Face's GPT-2 block."""

import pytest
import torch

from models import pretrained
from models.config import GPT2Config
from modules.gpt2_layer import GPT2Layer
from sanity import layer as sanity
from sanity.checks import randomise


@pytest.mark.parametrize("check", sanity.CHECKS, ids=lambda check: check.__name__)
def test_sanity(check):
    """Catches: what sanity_check.py is for: norms, residuals, projections, GELU, dropout."""
    result = check(GPT2Layer)
    assert result.passed, result


@pytest.mark.parametrize("nh, inner", [(3, 0), (5, 24)])
def test_hugging_faces_block(nh, inner):
    """Catches: a mistake in the parts together, attention included, in value or gradient; norms with another eps."""
    from transformers import GPT2Config as TheirConfig
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block
    C = 6 * nh
    theirs = randomise(GPT2Block(TheirConfig(n_embd=C, n_head=nh, n_inner=inner or None, layer_norm_epsilon=0.03,
                                             attn_implementation="eager"), layer_idx=0)).eval().double()
    config = GPT2Config(num_hidden_layers=1, hidden_size=C, num_attention_heads=nh, intermediate_size=inner,
                        layer_norm_eps=0.03)
    ours = GPT2Layer(config).eval().double()
    values = dict(theirs.named_parameters())
    mine = dict(ours.named_parameters())
    for entry in pretrained.table(config):
        if entry.theirs.startswith("h.0."):
            value = values[entry.theirs.removeprefix("h.0.")]
            parts = (value.T if entry.transposed else value).chunk(len(entry.ours))
            for name, part in zip(entry.ours, parts, strict=True):
                mine[name.removeprefix("gpt_layers.0.")].data.copy_(part)
    x = torch.randn(2, 7, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    causal = torch.full((7, 7), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)[None, None]
    want = theirs(inputs[1], attention_mask=causal)
    want = want[0] if isinstance(want, tuple) else want
    got = ours(inputs[0], torch.zeros(2, 1, 1, 7, dtype=x.dtype))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((out ** 2).sum(), into)[0]
                 for out, into in zip((got, want), inputs, strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_attribute_names_and_shapes():
    """Catches: a renamed part, or one that says a width and holds another."""
    layer = GPT2Layer(GPT2Config(hidden_size=12, num_attention_heads=3))
    shapes = {name: list(value.shape) for name, value in layer.state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "attention_layer_norm.weight": [12], "self_attention.query.weight": [12, 12],
        "self_attention.key.weight": [12, 12], "self_attention.value.weight": [12, 12],
        "attention_dense.weight": [12, 12], "out_layer_norm.weight": [12],
        "interm_dense.weight": [48, 12], "out_dense.weight": [12, 48]}
    assert (layer.interm_dense.out_features, layer.out_dense.in_features) == (48, 48)
