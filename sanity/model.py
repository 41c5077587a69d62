"""Check GPT2Model against Hugging Face's GPT-2, on a small random checkpoint or a real one."""

import copy
import functools
import math
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import pretrained
from models.config import GPT2Config
from sanity.checks import TOLERANCE, Mistake, Result, compare, difference, randomise
from sanity.layer import gelu_of

SMALL = GPT2Config(vocab_size=101, max_position_embeddings=16, hidden_size=48, num_hidden_layers=3,
                   num_attention_heads=4)


class StubLayer(nn.Linear):
    """Replaces a layer, so that the model can be checked without it."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.mask = attention_mask  # for a check to look at
        return super().forward(hidden_states)


def build(model: type[nn.Module], config: GPT2Config = SMALL) -> nn.Module:
    """Return a small model with stubs for its layers and random weights, in eval mode."""
    module = model(config)
    C = config.hidden_size
    module.gpt_layers = nn.ModuleList(StubLayer(C, C) for _ in range(config.num_hidden_layers))
    return randomise(module).eval()


def texts(vocab_size: int = SMALL.vocab_size, T: int = 12, full: bool = True) -> tuple[Tensor, Tensor]:
    """Return token ids and mask [4, T]: a full row, a row with padding, a row with holes, a row of one token.

    full: without it the first row, too, ends in padding, so a position that is one too large is still in the row.
    """
    ids = torch.randint(vocab_size, (4, T), generator=torch.Generator().manual_seed(1))
    ids[0, :2] = torch.tensor([0, vocab_size - 1])
    mask = torch.ones_like(ids)
    mask[1, T // 2:] = 0
    mask[2, 1:-1:3] = 0
    mask[3, 1:] = 0
    mask[:, -1] *= full
    return ids, mask


def outputs_of(module: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what the model's forward returns. Mistake if it is not the dict of two tensors that is asked for."""
    outputs = module(ids, mask)
    if isinstance(outputs, dict) and {"last_hidden_state", "last_token"} <= set(outputs):
        return outputs
    what = f"a dict with the keys {list(outputs)}" if isinstance(outputs, dict) else f"a {type(outputs).__name__}"
    raise Mistake(f"forward returns {what}; it must return a dict with the keys 'last_hidden_state' and 'last_token'")


def hugging_face(folder: Path) -> nn.Module:
    """Return Hugging Face's model of a checkpoint, in float32 and eval mode."""
    from transformers import GPT2Model, logging  # here, because it takes seconds
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GPT2Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@contextmanager
def small_checkpoint():
    """Make a folder with a small random checkpoint, written by Hugging Face; it is gone after the block."""
    import transformers
    transformers.logging.disable_progress_bar()
    config = transformers.GPT2Config(
        vocab_size=SMALL.vocab_size, n_positions=SMALL.max_position_embeddings, n_embd=SMALL.hidden_size,
        n_layer=SMALL.num_hidden_layers, n_head=SMALL.num_attention_heads, bos_token_id=0, eos_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        randomise(transformers.GPT2Model(config), scale=0.2).save_pretrained(folder)
        yield Path(folder)


@torch.no_grad()
def embedding(model: type[nn.Module]) -> Result:
    """embed: token plus position, positions from 0"""
    module, (ids, _) = build(model), texts()
    word, position = module.word_embedding.weight, module.pos_embedding.weight
    T = ids.shape[1]
    return compare(module.embed(ids), word[ids] + position[:T], {
        "the position embedding is missing": word[ids],
        "positions start at 1, not 0": word[ids] + position[1:T + 1],
        "every token gets position 0": word[ids] + position[0],
        "the embedding is scaled by sqrt(hidden size)": word[ids] * SMALL.hidden_size ** 0.5 + position[:T],
    })


@torch.no_grad()
def embedding_dropout(model: type[nn.Module]) -> Result:
    """embed_dropout of 1 leaves nothing of the embedding"""
    module, (ids, _) = build(model), texts()
    kept = module.embed(ids)
    module.train().embed_dropout.p = 1.0
    word, position = module.word_embedding.weight, module.pos_embedding.weight
    want = torch.zeros_like(word[ids])
    return compare(module.embed(ids), want, {
        "there is no dropout in training: call self.embed_dropout": want if kept is None else kept,
        "dropout is applied to the token embedding only": position[:ids.shape[1]].expand_as(want),
        "dropout is applied to the position embedding only": word[ids],
    })


@torch.no_grad()
def stack(model: type[nn.Module]) -> Result:
    """every layer once, in order, then the final norm"""
    module, (ids, mask) = build(model), texts(full=False)
    got = outputs_of(module, ids, mask)["last_hidden_state"]
    x, norm = module.embed(ids), module.final_layer_norm
    out = [x]
    for layer in module.gpt_layers:
        out.append(layer(out[-1]))
    backwards = x
    for layer in reversed(module.gpt_layers):
        backwards = layer(backwards)
    repeated = x
    for _ in module.gpt_layers:
        repeated = module.gpt_layers[0](repeated)
    return compare(got, norm(out[-1]), {
        "the final LayerNorm is missing": out[-1],
        "the final LayerNorm is applied twice": norm(norm(out[-1])),
        "only the first layer is run": norm(out[1]),
        "the last layer is not run": norm(out[-2]),
        "every layer gets the embeddings; it must get the output of the layer before": norm(module.gpt_layers[-1](x)),
        "the first layer is run again and again": norm(repeated),
        "the layers are run in reverse order": norm(backwards),
        "no layer is run": norm(x),
    })


@torch.no_grad()
def last_token(model: type[nn.Module]) -> Result:
    """last_token: of each row the last one that is not padding"""
    result = _last_token(model, full=False)  # first without a full row: there `one too far` would be an IndexError
    return _last_token(model, full=True) if result.passed else result


def _last_token(model: type[nn.Module], full: bool) -> Result:
    module, (ids, mask) = build(model), texts(full=full)
    outputs = outputs_of(module, ids, mask)
    hidden, rows = outputs["last_hidden_state"], torch.arange(len(ids))
    last = torch.tensor([int(row.nonzero().max()) for row in mask])
    count = mask.sum(dim=1)
    unnormed = functools.reduce(lambda x, layer: layer(x), module.gpt_layers, module.embed(ids))

    # A mask with holes shows more mistakes, but training makes none: there the tokens may be counted.
    right = outputs["last_token"], hidden[rows, last]
    by_count = hidden[rows, count - 1]
    before = "it is taken before the final LayerNorm: take it from last_hidden_state"
    result = compare(*right, [
        ("it is the last position, padding or not", hidden[:, -1]),
        ("it is one too far: sum(mask) is a length, the position is one less",
         hidden[rows, count.clamp(max=hidden.shape[1] - 1)]),
        ("it is the first token", hidden[:, 0]),
        ("it is the mean over the tokens", (hidden * mask[..., None]).sum(dim=1) / count[:, None]),
        (before, unnormed[rows, last]),
        (before, unnormed[rows, count - 1]),
    ])
    if not result.passed and difference(right[0], by_count) <= TOLERANCE:
        return Result(0.0, note="Accepted: sum(mask) - 1 is wrong only for a mask with holes, and training makes none.")
    return result


@torch.no_grad()
def mask_for_the_blocks(model: type[nn.Module]) -> Result:
    """encode: the mask that the blocks get, 0 or very negative"""
    module, (ids, mask) = build(model), texts(full=False)
    module(ids, mask)
    got = module.gpt_layers[0].mask
    padding = (mask == 0)[:, None, None, :]
    if not isinstance(got, Tensor) or got.shape != padding.shape:
        shown = list(got.shape) if isinstance(got, Tensor) else got
        return Result(math.inf, mistake=f"the blocks get {shown}; they need [B, 1, 1, T], {list(padding.shape)} here")
    if got.isnan().any():
        return Result(math.inf, mistake="the mask holds NaN: 0 * -inf is NaN; take a finite number, such as -10000")
    itself = bool(((got == 0) | (got == 1)).all())
    got = got.double() - got.double().max()  # what is added everywhere changes no softmax
    if bool((got[padding] < -1000).all()) and bool((got[~padding] == 0).all()):
        return Result(0.0)
    if bool((got == 0).all()):
        return Result(math.inf, mistake="attention_mask is ignored: padding is not marked in the mask for the blocks")
    if bool((got[~padding] < got[padding].min()).all()):
        return Result(math.inf, mistake="the mask is the wrong way round: tokens are hidden, padding is seen")
    if not itself and bool((got[padding] < 0).all()) and bool((got[~padding] == 0).all()):
        return Result(math.inf, mistake="the mask is too weak: padding needs a very large negative number")
    return Result(math.inf, mistake="the blocks need 0 for a token and a very large negative number for padding, to be "
                                    "added to the scores; not the mask of 1 and 0 itself")


@torch.no_grad()
def output_layer(model: type[nn.Module]) -> Result:
    """hidden_state_to_token: the token embedding, transposed"""
    module = build(model)
    for shape in ((2, 5, SMALL.hidden_size), (3, SMALL.hidden_size), (SMALL.hidden_size,)):
        hidden = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        want = F.linear(hidden, module.word_embedding.weight)
        result = compare(module.hidden_state_to_token(hidden), want, {
            "these are probabilities: return logits, without a softmax": want.softmax(dim=-1)})
        if not result.passed:
            return result
    return result


@torch.no_grad()
def parity(model: type[nn.Module], folder: Path, tolerance: float = TOLERANCE) -> Result:
    """every hidden state is Hugging Face's"""
    ours, theirs = pretrained.load(model, folder, pretrained.read_config(folder)), hugging_face(folder)
    exact = gelu_of(type(ours.gpt_layers[0])) is F.gelu
    if exact:
        for block in theirs.h:
            block.mlp.act = nn.GELU()
    ids, mask = texts(ours.word_embedding.num_embeddings)
    got, want = hidden_states(ours, ids, mask), list(_theirs(theirs, ids, mask))

    if len(got) != len(want):
        return Result(math.inf, mistake=f"{len(got) - 1} calls of layers, not {len(want) - 1}: run each layer once")

    # Relative to the largest number of each token: in real GPT-2s some are several thousand.
    scales = [state.abs().amax(dim=-1, keepdim=True).clamp(min=1.0) for state in want]
    distances = [difference(a / scale, b / scale) for a, b, scale in zip(got, want, scales, strict=True)]
    worst = max(distances)
    if worst <= tolerance:
        return Result(worst, tolerance, note="with GELU in its exact form on both sides" if exact else "")

    # Name the first layer that differs, and the known mistake that gives the same result.
    first = next(i for i, distance in enumerate(distances) if distance > tolerance)
    where = "the embeddings" if first == 0 else f"layer {first}" if first < len(want) - 1 else "the last layer"
    known = [name for name, wrong in _mistaken(theirs)
             if difference(got[-1] / scales[-1], wrong(ids, mask) / scales[-1]) <= tolerance]
    why = known[0] if known else "no known mistake; look at the checks of the parts first"
    return Result(worst, tolerance, f"first differs after {where}; {why}")


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Return what Hugging Face calls hidden_states: the embedding, each layer's output, and the last after the norm."""
    states = []
    hooks = [model.gpt_layers[0].register_forward_pre_hook(
        lambda _, inputs, named: states.append(inputs[0] if inputs else named["hidden_states"]), with_kwargs=True)]
    hooks += [layer.register_forward_hook(lambda *call: states.append(call[-1])) for layer in model.gpt_layers]
    outputs = outputs_of(model, ids, mask)
    for hook in hooks:
        hook.remove()
    return [*states[:-1], outputs["last_hidden_state"]]


def _theirs(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Return Hugging Face's hidden_states."""
    # Without position_ids Hugging Face may count positions by the mask; ours always count from the left.
    positions = torch.arange(ids.shape[1])[None]
    return model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True).hidden_states


def _mistaken(right: nn.Module):
    """Yield the name of a mistake, and Hugging Face's model with this mistake, as a function of ids and mask."""
    def changed(change):
        wrong = copy.deepcopy(right)
        change(wrong)
        return lambda ids, mask: _theirs(wrong, ids, mask)[-1]

    def erf(wrong):
        for block in wrong.h:
            block.mlp.act = nn.GELU()

    def unscaled(wrong):
        for block in wrong.h:
            block.attn.scaling = 1.0

    def shifted(wrong):
        wrong.wpe.weight.copy_(wrong.wpe.weight.roll(-1, dims=0))

    yield "GELU is the exact (erf) form; GPT-2's is approximate='tanh'", changed(erf)
    yield "attention scores are not divided by sqrt(head size)", changed(unscaled)
    yield "the position embedding is missing", changed(lambda wrong: wrong.wpe.weight.zero_())
    yield "positions start at 1, not 0", changed(shifted)
    yield "the final LayerNorm is missing", changed(lambda wrong: setattr(wrong, "ln_f", nn.Identity()))
    yield ("attention_mask is ignored",
           lambda ids, mask: _theirs(right, ids, torch.ones_like(mask))[-1])


@torch.no_grad()
def causal_and_padded(model: type[nn.Module], folder: Path) -> Result:
    """later tokens and padding change nothing before them"""
    module, (ids, _) = pretrained.load(model, folder, pretrained.read_config(folder)), texts()
    short, T = ids[:, :7], ids.shape[1]
    mask = torch.ones_like(ids)
    alone = outputs_of(module, short, mask[:, :7])["last_hidden_state"]
    followed = outputs_of(module, ids, mask)["last_hidden_state"][:, :7]
    padded = outputs_of(module, ids, mask * (torch.arange(T) < 7))["last_hidden_state"][:, :7]
    leak, pad = difference(followed, alone), difference(padded, alone)
    mistake = "tokens see what follows them" if leak >= pad else "padding is looked at"
    return Result(max(leak, pad), mistake=mistake)


PARTS = [embedding, embedding_dropout, mask_for_the_blocks, stack, last_token, output_layer]
WHOLE = [parity, causal_and_padded]
REAL_CHECKS = [parity]
REAL = 1e-4  # tolerance on real weights: rounding grows through more layers
