"""GPT2Model against Hugging Face's, and its behaviour at the edges."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from classifier import GPT2SentimentClassifier
from models import pretrained
from models.config import GPT2Config
from models.gpt2 import GPT2Model
from sanity import model as sanity
from sanity.checks import difference, randomise

TINY = GPT2Config(vocab_size=31, max_position_embeddings=10, hidden_size=24, num_hidden_layers=2,
                  num_attention_heads=3)


def random_model(**changes) -> GPT2Model:
    return randomise(GPT2Model(dataclasses.replace(TINY, **changes)), scale=0.2).eval()


def random_batch(B, T, V, seed=0, holes=True):
    """Ids and mask: a full row first, then rows with padding and, if asked, holes; token 0 is always real."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (B, T), generator=generator)
    lengths = torch.randint(1, T + 1, (B, 1), generator=generator)
    lengths[0] = T
    mask = (torch.arange(T) < lengths).long()
    if holes:
        mask[1:] *= (torch.rand(B - 1, T, generator=generator) < 0.7).long()
        mask[:, 0] = 1
    return ids, mask


@pytest.mark.parametrize("check", sanity.PARTS, ids=lambda check: check.__name__)
def test_sanity_of_the_parts(check):
    """Catches: what sanity_check.py is for: embedding, stack, last token, output layer."""
    result = check(GPT2Model)
    assert result.passed, result


@pytest.mark.parametrize("check", sanity.WHOLE, ids=lambda check: check.__name__)
def test_sanity_of_the_whole(check):
    """Catches: what sanity_check.py is for: parity, causality, padding."""
    with sanity.small_checkpoint() as folder:
        result = check(GPT2Model, folder)
    assert result.passed, result


@pytest.mark.parametrize("shape", [{"heads": 1}, {"heads": 3}, {"heads": 5, "C": 35, "n_inner": 50},
                                   {"heads": 16, "layers": 3}], ids=str)
def test_every_hidden_state_is_hugging_faces(make_checkpoint, shape):
    """Catches: any difference from GPT-2, at any width, length and mask; in loading as in computing."""
    folder, theirs = make_checkpoint(**shape)
    ours = GPT2Model.from_pretrained(folder)
    with torch.no_grad():
        for T in (1, 2, 7, 12):
            ids, mask = random_batch(4, T, 61, seed=T)
            want = theirs(ids, attention_mask=mask, position_ids=torch.arange(T)[None],
                          output_hidden_states=True)
            got = sanity.hidden_states(ours, ids, mask)
            assert len(got) == len(want.hidden_states)
            assert max(difference(a, b) for a, b in zip(got, want.hidden_states, strict=True)) < 1e-5
            assert difference(ours.hidden_state_to_token(got[-1]), want.logits) < 1e-5


def test_gradients_are_hugging_faces(checkpoint):
    """Catches: a detached part, a gradient that the mask lets through, a parameter that learns nothing."""
    folder, theirs = checkpoint
    ours = GPT2Model.from_pretrained(folder)
    ids, mask = random_batch(3, 9, 61)
    ids[0, :3] = 0  # id 0 must learn like any other: nothing may take it for padding
    direction = torch.randn(3, 9, 48, generator=torch.Generator().manual_seed(1))
    (ours(ids, mask)["last_hidden_state"] * direction).sum().backward()
    theirs.zero_grad()
    hidden = theirs.transformer(ids, attention_mask=mask, position_ids=torch.arange(9)[None]).last_hidden_state
    (hidden * direction).sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.transformer.named_parameters()}
    mine = dict(ours.named_parameters())
    for entry in pretrained.table(ours.config):
        want = gradients[entry.theirs]
        got = torch.cat([mine[name].grad for name in entry.ours])
        assert difference(got.T if entry.transposed else got, want) < 1e-5 * max(1.0, want.abs().max().item())
    assert mine["word_embedding.weight"].grad[0].abs().max() > 0


@pytest.mark.slow
def test_the_true_shape_is_hugging_faces(make_checkpoint):
    """Catches: rounding that grows beyond 1e-4 through 12 layers of the 124M shape, at its full length."""
    folder, theirs = make_checkpoint(heads=12, C=768, layers=12, vocab=50257, positions=1024, scale=0.05)
    ours = GPT2Model.from_pretrained(folder)
    with torch.no_grad():
        for T in (37, 1024):
            ids, mask = random_batch(2, T, 50257)
            want = theirs.transformer(ids, attention_mask=mask, position_ids=torch.arange(T)[None],
                                      output_hidden_states=True).hidden_states
            got = sanity.hidden_states(ours, ids, mask)
            assert max(difference(a, b) for a, b in zip(got, want, strict=True)) < 1e-4


def test_attribute_names():
    """Catches: a renamed part, which checkpoints and course scripts know by name."""
    model = random_model()
    assert {name for name, _ in model.named_children()} == {
        "word_embedding", "pos_embedding", "embed_dropout", "gpt_layers", "final_layer_norm"}
    assert model.word_embedding.padding_idx is None
    assert not list(model.buffers())


def test_every_half_block_starts_small():
    """Catches: an initialisation whose residual stream grows with depth, or that is not random at all."""
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(hidden_size=192, num_hidden_layers=8, vocab_size=500))
    layer = model.gpt_layers[3]
    assert model.word_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.interm_dense.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.attention_dense.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert layer.out_dense.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert layer.out_dense.bias.abs().max() == 0
    assert torch.equal(layer.out_layer_norm.weight, torch.ones(192))


@pytest.mark.parametrize("ids, mask, said", [
    ([[1] * 11], [[1] * 11], "11 tokens is too long: this model has 10 positions"),
    ([[1, 2], [1, 2]], [[1, 1], [0, 0]], r"rows \[1\] of attention_mask start with padding"),
    ([[1, 2], [1, 2]], [[0, 1], [1, 1]], r"rows \[0\].*pad on the right"),
    ([[1, 2]], [[1, 1, 1]], r"\[1, 2\] and \[1, 3\]"),
    ([[]], [[]], "at least 1"),
    ([1, 2], [1, 2], r"must both be \[B, T\]")])
def test_what_cannot_be_right_is_refused(ids, mask, said):
    """Catches: an obscure crash, or a silent wrong answer, for left padding, empty rows and long texts."""
    with pytest.raises(ValueError, match=said):
        random_model()(torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long))


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32, torch.float64])
def test_masks_of_any_type(kind):
    """Catches: arithmetic on the mask that is right for integers only."""
    model = random_model()
    ids, mask = random_batch(3, 6, 31)
    want, got = model(ids, mask), model(ids, mask.to(kind))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_new_tensors_are_on_the_inputs_device():
    """Catches: positions, masks or indices made on the default device, which fail where the model is on another."""
    model, (ids, mask) = random_model(), random_batch(3, 7, 31)
    want = model(ids, mask)
    with torch.device("meta"):
        got = model(ids, mask)
    assert torch.equal(got["last_hidden_state"], want["last_hidden_state"])
    assert torch.equal(got["last_token"], want["last_token"])


def test_what_the_layers_get_as_a_mask():
    """Catches: an inverted mask, one of the wrong shape or type, and -inf, which would make NaN."""
    model, masks = random_model().double(), []
    model.gpt_layers[1].register_forward_pre_hook(lambda _, inputs: masks.append(inputs[1]))
    model(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 2]]))
    assert masks[0].shape == (1, 1, 1, 3)
    assert masks[0].dtype == torch.float64 and masks[0].flatten().tolist() == [0.0, torch.finfo(torch.float64).min, 0.0]


@pytest.mark.parametrize("place", ["embed_dropout", "self_attention.dropout", "attention_dropout", "out_dropout"])
def test_each_dropout_is_in_use_and_off_in_eval_mode(place):
    """Catches: a dropout that is not wired up, or does not stop in eval mode."""
    model = random_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids, mask = random_batch(2, 6, 31)
    want = model(ids, mask)["last_hidden_state"]
    parts = [part for name, part in model.named_modules() if name.endswith(place)]
    for part in parts:
        part.p = 1.0
    assert isinstance(parts[0], nn.Dropout)
    assert difference(model.train()(ids, mask)["last_hidden_state"], want) > 1e-3
    assert difference(model.eval()(ids, mask)["last_hidden_state"], want) == 0


def test_config_dropout_reaches_every_part():
    """Catches: a dropout from the command line that never gets to the backbone."""
    model = random_model(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5)
    found = {name.split(".")[-1]: part.p for name, part in model.named_modules() if isinstance(part, nn.Dropout)}
    assert found == {"embed_dropout": 0.25, "dropout": 0.5, "attention_dropout": 0.25, "out_dropout": 0.25}


@settings(deadline=None, max_examples=30)
@given(B=st.integers(1, 4), T=st.integers(1, 9), seed=st.integers(0, 99))
def test_properties(B, T, seed):
    """Catches: rows that depend on each other, on what follows, or on how far they are padded."""
    model = random_model().double()
    ids, mask = random_batch(B, T, 31, seed)
    generator = torch.Generator().manual_seed(seed)
    out = model(ids, mask)
    order = torch.randperm(B, generator=generator)
    moved = model(ids[order], mask[order])
    torch.testing.assert_close(moved["last_token"], out["last_token"][order], rtol=0, atol=1e-12)
    # One more column, of padding: nothing changes. Of a token: nothing before it changes.
    more = torch.cat([ids, torch.randint(31, (B, 1), generator=generator)], dim=1)
    padded = model(more, torch.cat([mask, torch.zeros(B, 1, dtype=mask.dtype)], dim=1))
    followed = model(more, torch.cat([mask, torch.ones(B, 1, dtype=mask.dtype)], dim=1))
    torch.testing.assert_close(padded["last_token"], out["last_token"], rtol=0, atol=1e-12)
    for longer in (padded, followed):
        torch.testing.assert_close(longer["last_hidden_state"][:, :-1], out["last_hidden_state"],
                                   rtol=0, atol=1e-12)
    last = [int(row.nonzero().max()) for row in mask]
    assert torch.equal(out["last_token"], out["last_hidden_state"][range(B), last])


def test_from_pretrained_makes_the_class_it_is_called_on(checkpoint):
    """Catches: a hard-coded class; a model left in training mode; dropout that cannot be chosen."""
    class Child(GPT2Model):
        pass

    child = Child.from_pretrained(checkpoint[0], hidden_dropout_prob=0.4)
    assert type(child) is Child and not child.training
    assert child.embed_dropout.p == 0.4
    assert GPT2Model.from_pretrained(str(checkpoint[0])).embed_dropout.p == 0.1


def test_from_pretrained_checks_what_the_caller_expects(checkpoint):
    """Catches: upstream's d, l and num_heads accepted and ignored."""
    assert GPT2Model.from_pretrained(checkpoint[0], 48, 2, 4).config.hidden_size == 48
    for wrong, said in (({"d": 768}, "hidden_size 48, not 768"), ({"l": 12}, "num_hidden_layers 2, not 12"),
                        ({"num_heads": 3}, "num_attention_heads 4, not 3")):
        with pytest.raises(pretrained.PretrainedError, match=said):
            GPT2Model.from_pretrained(checkpoint[0], **wrong)
    with pytest.raises(TypeError, match="hidden_dropout"):
        GPT2Model.from_pretrained(checkpoint[0], hidden_dropout=0.1)


def test_which_checkpoint_is_asked_for(checkpoint, monkeypatch):
    """Catches: another default than GPT-2, here or in the classifier; a revision that is not handed on."""
    asked = []
    monkeypatch.setattr(pretrained, "resolve", lambda *words: asked.append(words) or checkpoint[0])
    GPT2Model.from_pretrained()
    GPT2Model.from_pretrained("other", revision="v1")
    GPT2SentimentClassifier(SimpleNamespace(fine_tune_mode="full-model", hidden_size=48, num_labels=2,
                                            hidden_dropout_prob=0.1))
    assert asked == [("gpt2", None), ("other", "v1"), ("gpt2", None)]


def test_from_pretrained_draws_no_random_numbers(checkpoint):
    """Catches: a random initialisation that is thrown away, and shifts every draw after it."""
    before = torch.get_rng_state()
    GPT2Model.from_pretrained(checkpoint[0])
    assert torch.equal(torch.get_rng_state(), before)
