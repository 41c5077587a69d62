"""Checks of GPT2Layer, against PyTorch's pre-norm transformer layer; its attention is replaced by a stand-in."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanity.checks import Result, compare, randomise

C, INNER, T = 48, 160, 6


class StandIn(nn.Linear):
    """In place of attention, so that a layer can be checked before there is one."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states)


def build(layer: type[nn.Module], **dropout: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A small layer with random weights in eval mode, and its two inputs."""
    config = SimpleNamespace(hidden_size=C, num_attention_heads=4, intermediate_size=INNER, layer_norm_eps=1e-5,
                             hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    module = layer(config)
    module.self_attention = StandIn(C, C)
    for name, p in dropout.items():
        getattr(module, name).p = p
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(1))
    return randomise(module).eval(), x, torch.zeros(2, 1, 1, T)


def tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def oracle(module: nn.Module, activation: Callable[[Tensor], Tensor] = tanh_gelu,
           pre_norm: bool = True) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the weights of `module`; its two halves are the methods _sa_block and _ff_block."""
    layer = nn.TransformerEncoderLayer(C, 1, INNER, dropout=0.0, activation=activation, batch_first=True,
                                       norm_first=pre_norm)
    layer.norm1, layer.norm2 = module.attention_layer_norm, module.out_layer_norm
    layer.linear1, layer.linear2 = module.interm_dense, module.out_dense
    layer._sa_block = lambda x, *masks, **more: module.attention_dense(module.self_attention(x))
    return layer


def without_attention(module: nn.Module) -> nn.Module:
    layer = oracle(module)
    layer._sa_block = lambda x, *masks, **more: torch.zeros_like(x)
    return layer


def without_feed_forward(module: nn.Module) -> nn.Module:
    layer = oracle(module)
    layer._ff_block = torch.zeros_like
    return layer


def mistaken(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The answers of layers that differ from a right one in one thing."""
    norm_missing, norm_missing_2, norm_reused, inside = (oracle(module) for _ in range(4))
    norm_missing.norm1 = inside.norm1 = nn.Identity()
    norm_missing_2.norm2 = nn.Identity()
    norm_reused.norm2 = norm_reused.norm1
    lost, unprojected, projected_twice, parallel = (oracle(module) for _ in range(4))
    lost._sa_block = lambda y, *masks, **more: module.attention_dense(module.self_attention(y)) - x
    unprojected._sa_block = lambda y, *masks, **more: module.self_attention(y)
    projected_twice._sa_block = lambda y, *masks, **more: module.attention_dense(
        module.attention_dense(module.self_attention(y)))
    parallel._ff_block = lambda _: oracle(module)._ff_block(module.out_layer_norm(x))
    return {
        "the norms come after the additions (post-norm); GPT-2 normalises before": oracle(module, pre_norm=False)(x),
        "attention_layer_norm is missing": norm_missing(x),
        "out_layer_norm is missing": norm_missing_2(x),
        "attention_layer_norm is used in both places": norm_reused(x),
        "the first residual is taken from the normalised input": inside(module.attention_layer_norm(x)),
        "the first residual connection is missing": lost(x),
        "the second residual connection is missing": oracle(module)(x) - without_feed_forward(module)(x),
        "the feed-forward half reads the layer's input, not what attention added to it": parallel(x),
        "attention_dense is not applied": unprojected(x),
        "attention_dense is applied twice": projected_twice(x),
        "GELU is the exact (erf) form; GPT-2's is approximate='tanh'": oracle(module, F.gelu)(x),
        "the activation is ReLU, not GELU": oracle(module, F.relu)(x),
        "the activation is x * sigmoid(1.702 x), not GELU":
            oracle(module, lambda y: y * torch.sigmoid(1.702 * y))(x),
        "there is no activation between interm_dense and out_dense": oracle(module, lambda y: y)(x),
    }


@torch.no_grad()
def known_answer(layer: type[nn.Module]) -> Result:
    """pre-norm, residuals, projections and GELU: PyTorch's layer"""
    module, x, mask = build(layer)
    return compare(module(x, mask), oracle(module)(x), mistaken(module, x))


@torch.no_grad()
def attention_dropout(layer: type[nn.Module]) -> Result:
    """attention_dropout of 1 removes just what attention adds"""
    module, x, mask = build(layer, attention_dropout=1.0)
    return _dropout(module.train(), x, mask, without_attention(module)(x), without_feed_forward(module)(x))


@torch.no_grad()
def out_dropout(layer: type[nn.Module]) -> Result:
    """out_dropout of 1 removes just what the feed-forward half adds"""
    module, x, mask = build(layer, out_dropout=1.0)
    return _dropout(module.train(), x, mask, without_feed_forward(module)(x), without_attention(module)(x))


def _dropout(module: nn.Module, x: Tensor, mask: Tensor, want: Tensor, other: Tensor) -> Result:
    biases_left = oracle(module)
    if module.attention_dropout.p:
        biases_left._sa_block = lambda y, *masks, **more: module.attention_dense.bias.expand_as(y)
    else:
        biases_left._ff_block = lambda y: module.out_dense.bias.expand_as(y)
    return compare(module(x, mask), want, {
        "there is no dropout here": oracle(module)(x),
        "attention_dropout and out_dropout are swapped": other,
        "dropout comes before the dense layer: it belongs on its output": biases_left(x),
        "dropout is applied to the sum: it belongs on what is added": torch.zeros_like(x),
        "dropout is applied to the sum of attention": oracle(module)._ff_block(module.out_layer_norm(x * 0)),
    })


CHECKS = [known_answer, attention_dropout, out_dropout]
