"""Check GPT2Layer, with a stub for its attention, against PyTorch's pre-norm transformer layer."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import GPT2Config
from sanity.checks import TOLERANCE, Result, compare, difference, randomise

C, INNER, T = 48, 160, 6


class StubAttention(nn.Linear):
    """Replaces the attention, so that a layer can be checked without it."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        self.mask = attention_mask  # for a check to look at
        return super().forward(hidden_states)


def build(layer: type[nn.Module], **dropout: float) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small layer with random weights in eval mode, and its two inputs."""
    module = layer(GPT2Config(hidden_size=C, num_attention_heads=4, intermediate_size=INNER, hidden_dropout_prob=0.0,
                              attention_probs_dropout_prob=0.0, max_position_embeddings=32))
    module.self_attention = StubAttention(C, C)
    for name, p in dropout.items():
        getattr(module, name).p = p
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(1))
    return randomise(module).eval(), x, torch.zeros(2, 1, 1, T)


def tanh_gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU."""
    return F.gelu(x, approximate="tanh")


def oracle(module: nn.Module, activation: Callable[[Tensor], Tensor], pre_norm: bool = True,
           ) -> nn.TransformerEncoderLayer:
    """Return PyTorch's layer with the weights of `module`; the methods _sa_block and _ff_block are its two halves."""
    layer = nn.TransformerEncoderLayer(C, 1, INNER, dropout=0.0, activation=activation, batch_first=True,
                                       norm_first=pre_norm)
    layer.norm1, layer.norm2 = module.attention_layer_norm, module.out_layer_norm
    layer.linear1, layer.linear2 = module.interm_dense, module.out_dense
    layer._sa_block = lambda x, *masks, **more: module.attention_dense(module.self_attention(x, None))
    return layer


@torch.no_grad()
def gelu_of(layer: type[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The form of GELU that a layer has: the exact one if its results say so, else GPT-2's. Both are right here."""
    module, x, mask = build(layer)
    exact = difference(module(x, mask), oracle(module, F.gelu)(x)) <= TOLERANCE
    return F.gelu if exact else tanh_gelu


def without_attention(module: nn.Module, gelu: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return PyTorch's layer without its first half."""
    layer = oracle(module, gelu)
    layer._sa_block = lambda x, *masks, **more: torch.zeros_like(x)
    return layer


def without_feed_forward(module: nn.Module, gelu: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return PyTorch's layer without its second half."""
    layer = oracle(module, gelu)
    layer._ff_block = torch.zeros_like
    return layer


def mistaken(module: nn.Module, x: Tensor, gelu: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the outputs of layers with one mistake each, after the name of the mistake."""
    def changed(change: Callable[[nn.Module], object], **options: bool) -> nn.Module:
        layer = oracle(module, gelu, **options)
        change(layer)
        return layer

    def attention(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
        return lambda layer: setattr(layer, "_sa_block", lambda y, *masks, **more: function(y))

    first, dense = module.self_attention, module.attention_dense
    inside = changed(lambda layer: setattr(layer, "norm1", nn.Identity()))
    yield ("the norms come after the additions (post-norm); GPT-2 normalises before",
           oracle(module, gelu, pre_norm=False)(x))
    yield "attention_layer_norm is missing", inside(x)
    yield "out_layer_norm is missing", changed(lambda layer: setattr(layer, "norm2", nn.Identity()))(x)
    yield "the two norms are swapped", changed(lambda layer: (
        setattr(layer, "norm1", module.out_layer_norm), setattr(layer, "norm2", module.attention_layer_norm)))(x)
    yield "attention_layer_norm is used in both places", changed(lambda layer: setattr(layer, "norm2", layer.norm1))(x)
    yield "the first residual is taken from the normalised input", inside(module.attention_layer_norm(x))
    yield ("the first residual connection is missing",
           changed(attention(lambda y: dense(first(y, None)) - x))(x))
    yield ("the second residual connection is missing",
           oracle(module, gelu)(x) - without_feed_forward(module, gelu)(x))
    half = oracle(module, gelu)._ff_block(module.out_layer_norm(x))
    yield ("the feed-forward half reads the layer's input, not what attention added to it",
           changed(lambda layer: setattr(layer, "_ff_block", lambda _: half))(x))
    yield from mistaken_by_hand(module, x, gelu)
    yield "attention_dense is not applied", changed(attention(lambda y: first(y, None)))(x)
    yield "attention_dense is applied twice", changed(attention(lambda y: dense(dense(first(y, None)))))(x)
    yield "the activation is ReLU, not GELU", oracle(module, F.relu)(x)
    yield ("the activation is x * sigmoid(1.702 x), not GELU",
           oracle(module, lambda y: y * torch.sigmoid(1.702 * y))(x))
    yield "there is no activation between interm_dense and out_dense", oracle(module, lambda y: y)(x)


def mistaken_by_hand(module: nn.Module, x: Tensor, gelu: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the outputs of layers whose mistake PyTorch's layer cannot be given, after the name of the mistake."""
    def attend(y: Tensor) -> Tensor:
        return module.attention_dense(module.self_attention(y, None))

    def feed(y: Tensor) -> Tensor:
        return module.out_dense(gelu(module.interm_dense(y)))

    norm1, norm2 = module.attention_layer_norm, module.out_layer_norm
    half = x + attend(norm1(x))  # what a right layer has after its first half
    normed = norm1(x) + attend(norm1(x))
    yield "the second residual is taken from the normalised half", norm2(half) + feed(norm2(half))
    yield "both residuals are taken from the normalised input", norm2(normed) + feed(norm2(normed))
    yield "the second half is added to the layer's input, not to the first half's sum", x + feed(norm2(half))
    yield "both residual connections are missing", feed(norm2(attend(norm1(x))))
    bare = x + attend(x)
    yield "both norms are missing", bare + feed(bare)
    after = x + norm1(attend(x))
    yield ("the norms come after the branches; each belongs before its branch, on what goes in",
           after + norm2(feed(after)))
    bent = x + gelu(attend(norm1(x)))
    yield "there is a GELU after attention_dense; it belongs after interm_dense alone", bent + feed(norm2(bent))
    yield "there is a GELU after out_dense; it belongs after interm_dense alone", half + gelu(feed(norm2(half)))


@torch.no_grad()
def known_answer(layer: type[nn.Module]) -> Result:
    """pre-norm, residuals, projections and GELU: PyTorch's layer"""
    module, x, mask = build(layer)
    gelu, before = gelu_of(layer), x.clone()
    mask = torch.arange(T).expand(mask.shape) / -T  # the stub ignores it
    module(x, mask)
    if not isinstance(module.self_attention.mask, Tensor) or not torch.equal(module.self_attention.mask, mask):
        return Result(math.inf, mistake="attention_mask does not reach self_attention as it is")
    if not torch.equal(x, before):
        return Result(math.inf, mistake="forward() changes its input in place (x += ...): write x = x + ...")
    mistakes = [*mistaken(module, x, tanh_gelu), *mistaken(module, x, F.gelu)]
    result = compare(module(x, mask), oracle(module, gelu)(x), mistakes)
    if result.passed and gelu is F.gelu:
        return replace(result, note="Accepted: GELU is the exact (erf) form, as in the course's starter; GPT-2 was "
                                    "trained with approximate='tanh', up to 5e-4 apart.")
    return result


@torch.no_grad()
def attention_dropout(layer: type[nn.Module]) -> Result:
    """attention_dropout of 1 removes just what attention adds"""
    (module, x, mask), gelu = build(layer, attention_dropout=1.0), gelu_of(layer)
    return _dropout(module.train(), x, mask, gelu, without_attention(module, gelu)(x),
                    without_feed_forward(module, gelu)(x))


@torch.no_grad()
def out_dropout(layer: type[nn.Module]) -> Result:
    """out_dropout of 1 removes just what the feed-forward half adds"""
    (module, x, mask), gelu = build(layer, out_dropout=1.0), gelu_of(layer)
    return _dropout(module.train(), x, mask, gelu, without_feed_forward(module, gelu)(x),
                    without_attention(module, gelu)(x))


def _dropout(module: nn.Module, x: Tensor, mask: Tensor, gelu: Callable[[Tensor], Tensor], want: Tensor,
             other: Tensor) -> Result:
    """Hold the layer's output to `want`; `other` is the output if its two dropouts are swapped."""
    biases_left = oracle(module, gelu)
    if module.attention_dropout.p:
        biases_left._sa_block = lambda y, *masks, **more: module.attention_dense.bias.expand_as(y)
    else:
        biases_left._ff_block = lambda y: module.out_dense.bias.expand_as(y)
    whole = oracle(module, gelu)
    name = "attention_dropout" if module.attention_dropout.p else "out_dropout"
    on_sum = "dropout is applied to the sum x + ...: it belongs on what is added to x"
    return compare(module(x, mask), want, [
        (f"there is no dropout here in training: call self.{name}", whole(x)),
        ("attention_dropout and out_dropout are swapped", other),
        ("dropout comes before the dense layer: it belongs on its output", biases_left(x)),
        (on_sum, torch.zeros_like(x)),
        (on_sum, whole._ff_block(module.out_layer_norm(x * 0))),
    ])


@torch.no_grad()
def dropout_probability(layer: type[nn.Module]) -> Result:
    """hidden_dropout_prob of 0: nothing is dropped"""
    module, x, mask = build(layer)
    want = module(x, mask)
    return replace(compare(module.train()(x, mask), want), mistake=(
        "something is dropped though the config says 0: take the probability from config.hidden_dropout_prob"))


CHECKS = [known_answer, attention_dropout, out_dropout, dropout_probability]
