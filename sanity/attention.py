"""Check CausalSelfAttention against PyTorch's own multi-head attention."""

import copy
import itertools
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import GPT2Config
from sanity.checks import Result, compare, difference, randomise

C, NH, T = 48, 4, 7
HIDDEN = torch.tensor(torch.finfo(torch.float32).min)


def build(attention: type[nn.Module], heads: int = NH, dropout: float = 0.0) -> nn.Module:
    """Return a small attention with random weights, in eval mode."""
    config = GPT2Config(hidden_size=C, num_attention_heads=heads, attention_probs_dropout_prob=dropout,
                        max_position_embeddings=32)
    return randomise(attention(config)).eval()


def texts(rows: int = 3, length: int = T) -> tuple[Tensor, Tensor]:
    """Return random vectors [B, T, C], and a mask [B, 1, 1, T] with padding and holes."""
    x = torch.randn(rows, length, C, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(rows, 1, 1, length, dtype=torch.bool)
    padding[0, ..., length // 2 + 1:] = True
    padding[-1, ..., 1:length - 1:2] = True
    return x, torch.where(padding, HIDDEN, 0.0)


def answer(module: nn.Module, x: Tensor, mask: Tensor, *, visible: Tensor | None = None, scale: float = 1.0,
           order: tuple[str, str, str] = ("query", "key", "value"), heads: int = NH) -> Tensor:
    """Return the output of PyTorch's attention with the weights of `module`; each keyword makes one change.

    visible: bool [T, T], True where token i may look at token j. scale: another factor of the scores, besides
    1 / sqrt(hs). order: the projections used as query, key and value. heads: number of heads.
    """
    length = x.shape[1]
    visible = torch.ones(length, length).tril().bool() if visible is None else visible
    mask = torch.where(visible, mask.to(x), -math.inf).expand(len(x), heads, -1, -1).flatten(0, 1)

    projections = [getattr(module, name) for name in order]
    weight = torch.cat([linear.weight for linear in projections])
    bias = torch.cat([linear.bias for linear in projections])
    factor = torch.cat([torch.full((C,), scale), torch.ones(2 * C)]).to(x)

    rows = x.transpose(0, 1)  # the function below wants [T, B, C]
    mixed, _ = F.multi_head_attention_forward(
        rows, rows, rows, C, heads, weight * factor[:, None], bias * factor, None, None, False, 0.0,
        torch.eye(C).to(x), torch.zeros(C).to(x), training=False, need_weights=False, attn_mask=mask)
    return mixed.transpose(0, 1)


@torch.no_grad()
def known_answer(attention: type[nn.Module]) -> Result:
    """scores, scale, causal mask and heads: PyTorch's attention"""
    module, (x, _) = build(attention, dropout=0.5), texts()
    none, ones, hs = torch.zeros(len(x), 1, 1, T), torch.ones(T, T), C // NH
    got, again = (module(x.clone(), none.clone()) for _ in range(2))
    if isinstance(got, Tensor) and not torch.equal(got.nan_to_num(), again.nan_to_num()):
        return Result(math.inf, mistake=RANDOM)
    return compare(got, answer(module, x, none), [
        ("the scores are not divided by sqrt(head size)", answer(module, x, none, scale=hs ** 0.5)),
        ("the scores are divided by the head size, not its root", answer(module, x, none, scale=hs ** -0.5)),
        ("the scores are divided by sqrt(hidden size), not sqrt(head size)",
         answer(module, x, none, scale=(hs / C) ** 0.5)),
        ("the scores are multiplied by sqrt(head size), not divided", answer(module, x, none, scale=hs)),
        ("query and key are swapped", answer(module, x, none, order=("key", "query", "value"))),
        ("key and value are swapped", answer(module, x, none, order=("query", "value", "key"))),
        ("there is no causal mask", answer(module, x, none, visible=ones.bool())),
        ("the causal mask lets each token see one token ahead",
         answer(module, x, none, visible=ones.tril(1).bool())),
        ("the causal mask hides each token from itself", answer(module, x, none, visible=ones.tril(-1).bool())),
        ("the causal mask is transposed", answer(module, x, none, visible=ones.triu().bool())),
        ("the causal mask hides earlier tokens; it must hide later ones",
         answer(module, x, none, visible=ones.triu(1).bool())),
        ("the scores of later tokens are set to 0, which still means a look; set them to -inf",
         by_hand(module, x, hidden=0.0)),
        ("every visible token has the same weight: are the scores multiplied by attention_mask? Add it",
         answer(module, x, none, scale=0.0)),
        ("the heads are not split: one large head", answer(module, x, none, heads=1)),
        ("the softmax runs over the queries (dim=-2); it belongs over the keys (dim=-1)", by_hand(module, x, dim=-2)),
        *((f"the heads are {what} by a view, which mixes tokens and heads: view as [B, T, nh, hs], then transpose",
           mixed_heads(module, x, "split" in what, "merged" in what))
          for what in ("split and merged", "split", "merged")),
        *(("queries, keys and values are made by self.{}, self.{} and self.{}".format(*order),
           answer(module, x, none, order=order))
          for order in itertools.product(("query", "key", "value"), repeat=3) if order != ("query", "key", "value")),
    ])


def by_hand(module: nn.Module, x: Tensor, hidden: float = -math.inf, dim: int = -1) -> Tensor:
    """Return what attention gives with another score for later tokens, or a softmax over another dimension."""
    query, key, value = (part(x).view(len(x), T, NH, -1).transpose(1, 2)
                         for part in (module.query, module.key, module.value))
    scores = query @ key.mT / math.sqrt(C // NH)
    later = torch.ones(T, T).triu(1).bool()
    return (scores.masked_fill(later, hidden).softmax(dim=dim) @ value).transpose(1, 2).reshape(x.shape)


def mixed_heads(module: nn.Module, x: Tensor, split: bool, merge: bool) -> Tensor:
    """Return what attention gives if heads are split, or merged, by `view` alone."""
    def heads(y: Tensor) -> Tensor:
        return y.view(len(x), NH, T, C // NH) if split else y.view(len(x), T, NH, C // NH).transpose(1, 2)

    query, key, value = (heads(part(x)) for part in (module.query, module.key, module.value))
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(x.shape) if merge else mixed.transpose(1, 2).reshape(x.shape)


@torch.no_grad()
def padding(attention: type[nn.Module]) -> Result:
    """padding, at the end or in the middle, gets no attention"""
    module, (x, mask) = build(attention), texts()
    return compare(module(x, mask), answer(module, x, mask), [
        ("attention_mask is ignored: add it to the scores", answer(module, x, torch.zeros_like(mask))),
        ("attention_mask is subtracted from the scores: add it", answer(module, x, -mask)),
        ("attention_mask is inverted", answer(module, x, torch.where(mask == 0, HIDDEN, 0.0))),
        ("attention_mask is too weak", answer(module, x, mask.clamp(min=-1.0))),
    ])


@torch.no_grad()
def causality(attention: type[nn.Module]) -> Result:
    """changing a token changes it and later ones, none before it"""
    module, (x, _) = build(attention), texts(rows=1)
    mask = torch.zeros(1, 1, 1, T)
    before, change = module(x, mask), torch.zeros(T, T)  # change[i, j]: how much output i changes with token j
    for j in range(T):
        changed = x.clone()
        changed[:, j] += 1.0
        change[:, j] = (module(changed, mask) - before).abs().amax(dim=(0, 2))

    sees, ones = change > 1e-6, torch.ones(T, T)
    leak = change.triu(1).max().item()
    patterns = {"there is no causal mask": ones, "each token sees one token ahead": ones.tril(1),
                "each token is hidden from itself": ones.tril(-1), "the causal mask is transposed": ones.triu()}
    mistake = next((name for name, pattern in patterns.items() if torch.equal(sees, pattern.bool())),
                   "some token sees what it must not, or not what it should")
    blind = not torch.equal(sees.tril(), ones.tril().bool())
    return Result(math.inf if blind else leak, 1e-6, mistake)


@torch.no_grad()
def shapes(attention: type[nn.Module]) -> Result:
    """other lengths, batch sizes and numbers of heads"""
    worst = Result(0.0)
    for rows, length, heads in ((1, 1, 1), (2, 2, 3), (1, 13, 16)):
        module, (x, _) = build(attention, heads), texts(rows, length)
        mask = torch.zeros(rows, 1, 1, length)
        result = compare(module(x, mask), answer(module, x, mask, heads=heads))
        if not result.passed:
            where = f"B={rows}, T={length}, heads={heads}"
            return Result(result.difference, mistake=f"wrong for {where} only? {result.mistake}")
        worst = max(worst, result, key=lambda result: result.difference)
    return worst


@torch.no_grad()
def dropout(attention: type[nn.Module]) -> Result:
    """dropout forgets whole attention weights"""
    module, (x, mask) = build(attention, dropout=1.0), texts()
    kept = module(x, mask)
    dropped = module.train()(x, mask)
    before = "dropout is applied to the scores, before the softmax; it belongs on the weights after it"
    if dropped.isnan().any():
        return Result(math.inf, mistake=before)

    # Scores that are all dropped weigh alike: the visible ones, or all if the masks were added before dropout.
    everything = answer(module, x, torch.zeros_like(mask), visible=torch.ones(T, T).bool(), scale=0.0)
    result = compare(dropped, torch.zeros_like(x), [
        ("there is no dropout in training: call self.dropout", kept),
        (before, answer(module, x, mask, scale=0.0)),
        (before, answer(module, x, torch.zeros_like(mask), scale=0.0)),
        (before, everything),
    ])
    if not result.passed:
        return replace(result, mistake=FIXED) if fixed_probability(attention) else result

    # The first token sees only itself, so each head has one weight: all its channels are dropped or doubled together.
    module.dropout.p = 0.5
    first, whole = (y[:, 0].unflatten(-1, (NH, -1)) for y in (module(x, mask), kept))
    want = torch.where((first == 0).all(dim=-1, keepdim=True), 0.0, 2 * whole)
    return Result(difference(first, want), mistake="dropout is applied to single numbers, of the values or of the "
                                                   "result; it belongs on the weights after the softmax")


RANDOM = "two calls in eval mode differ: is dropout active in eval mode? Use self.dropout, which drops nothing there"
FIXED = "dropout has a probability of its own: take config.attention_probs_dropout_prob"


def fixed_probability(attention: type[nn.Module]) -> bool:
    """Whether something is dropped in training though the config says 0."""
    module, (x, mask) = build(attention, dropout=0.0), texts()
    want = module(x, mask)
    return difference(module.train()(x, mask), want) > 1e-5


@torch.no_grad()
def dropout_probability(attention: type[nn.Module]) -> Result:
    """attention_probs_dropout_prob of 0: nothing is dropped"""
    return Result(math.inf if fixed_probability(attention) else 0.0, mistake=FIXED)


@torch.no_grad()
def repeatable(attention: type[nn.Module]) -> Result:
    """eval mode: no dropout, inputs unchanged, rows independent"""
    module, (x, mask) = build(attention, dropout=0.5), texts()
    inputs = x.clone(), mask.clone()
    first, second = module(x, mask), module(x.flip(0), mask.flip(0)).flip(0)
    if not torch.equal(x, inputs[0]) or not torch.equal(mask, inputs[1]):
        return Result(math.inf, mistake="forward() changes its inputs in place")
    if difference(module(x, mask), first) > 0:
        return Result(math.inf, mistake=RANDOM)
    return compare(second, first)


@torch.no_grad()
def large_scores(attention: type[nn.Module]) -> Result:
    """scores of a million stay finite"""
    module, (x, mask) = build(attention), texts()
    finite = module(x * 1e3, mask).isfinite().all()
    return Result(0.0 if finite else math.inf, mistake="a softmax computed by hand must subtract the maximum")


@torch.no_grad()
def any_device_and_type(attention: type[nn.Module]) -> Result:
    """works in float64 and on any device"""
    module, (x, _) = build(attention), texts()
    mask = torch.zeros(len(x), 1, 1, T)
    module(x, mask)
    meta = torch.device("meta")  # computes only shapes; like a GPU, it refuses tensors of the CPU
    try:
        copy.deepcopy(module).to(meta)(x.to(meta), mask.to(meta))
    except RuntimeError as error:
        return Result(math.inf, mistake=f"a tensor is made without device=..., which fails on a GPU: {error}")
    x, mask = x.double(), mask.double()
    got = module.double()(x, mask)
    if got.dtype != torch.float64:
        return Result(math.inf, mistake=f"float64 becomes {got.dtype}")
    return compare(got, answer(module, x, mask))


def gradients(attention: type[nn.Module]) -> Result:
    """gradients reach the query, key and value weights"""
    module, (x, _) = build(attention), texts()
    mask = torch.zeros(len(x), 1, 1, T)
    names = [f"{name}.weight" for name in ("query", "key", "value")]
    weights = [module.get_parameter(name) for name in names]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    want = torch.autograd.grad((answer(module, x, mask) * direction).sum(), weights)
    got = torch.autograd.grad((module(x, mask) * direction).sum(), weights, allow_unused=True)
    if missing := [name for name, gradient in zip(names, got, strict=True) if gradient is None]:
        return Result(math.inf, mistake=f"no gradient reaches {', '.join(missing)}: detached?")
    size = torch.stack(want).abs().max()  # a gradient is a sum over all tokens, so the comparison is relative
    return compare(torch.stack(got) / size, torch.stack(want) / size)


CHECKS = [known_answer, padding, causality, shapes, dropout, dropout_probability, repeatable, large_scores,
          any_device_and_type, gradients]
