"""The checks of sanity/ bite: each known mistake of a model, made in our own source, is caught, most by name."""

import pytest

from sanity import model as sanity
from tests.mutants import caught_by, mutate

SUM = "self.word_embedding(input_ids) + self.pos_embedding(positions)"
EMBED = f"return self.embed_dropout({SUM})"
FINAL = "self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))"
LAST = "last = (attention_mask.ne(0) * torch.arange(T, device=input_ids.device)).argmax(dim=1)"
TOKEN = "return hidden_state @ self.word_embedding.weight.T"
LOOP = "for layer in self.gpt_layers:\n            hidden_states"

MODEL = {
    "M53 no positions": ("position embedding is missing", [(SUM, "self.word_embedding(input_ids)")]),
    "M53 positions from 1": ("positions start at 1", [(SUM, SUM.replace("positions", "positions + 1"))]),
    "M53 constant position": ("every token gets position 0", [(SUM, SUM.replace("positions", "positions * 0"))]),
    "M53 position of the row": ("", [(SUM, SUM.replace("positions", "positions[:len(input_ids), None]"))]),
    "M54 no dropout": ("there is no dropout", [(EMBED, f"return {SUM}")]),
    "M54 dropout on tokens": ("token embedding only", [(EMBED, EMBED.replace(") + ", ")) + ").removesuffix(")"))]),
    "M54 dropout on positions": ("position embedding only", [
        (EMBED, "return self.word_embedding(input_ids) + self.embed_dropout(self.pos_embedding(positions))")]),
    "M55 scaled": ("scaled by sqrt(hidden size)",
                   [(SUM, SUM.replace("(input_ids)", "(input_ids) * self.config.hidden_size ** 0.5"))]),
    "M55 norm after embedding": ("", [(EMBED, f"return self.final_layer_norm({SUM})")]),
    "M56 no final norm": ("final LayerNorm is missing", [(FINAL, FINAL.removeprefix("self.final_layer_norm"))]),
    "M56 final norm twice": ("final LayerNorm is applied twice", [(FINAL, f"self.final_layer_norm({FINAL})")]),
    "M57 eps": ("first differs", [("eps=config.layer_norm_eps", "eps=1e-2")]),
    "M58 last position": ("it is the last position", [(LAST, "last = torch.full((B,), T - 1)")]),
    "M58 one too far": ("one too far", [(LAST, "last = attention_mask.sum(dim=1).clamp(max=T - 1)")]),
    "M58 sum is no position": ("one too far", [(LAST, "last = attention_mask.sum(dim=1)")]),
    "M58 before the norm": ("before the final LayerNorm", [
        ("last_token = hidden_states[", "last_token = self.encode(self.embed(input_ids), attention_mask)[")]),
    "a tuple": ("forward returns a tuple", [
        ('{"last_hidden_state": hidden_states, "last_token": last_token}', "hidden_states, last_token")]),
    "another key": ("the keys ['last_hidden_state', 'last']", [('"last_token": last', '"last": last')]),
    "no return": ("is `return` missing?", [(EMBED, EMBED.removeprefix("return "))]),
    "M59 probabilities": ("these are probabilities", [(TOKEN, TOKEN.replace("hidden", "(hidden") + ").softmax(-1)")]),
    "M60 last layer left out": ("the last layer is not run", [(LOOP, LOOP.replace("layers:", "layers[:-1]:"))]),
    "M60 layers side by side": ("every layer gets the embeddings", [
        (LOOP, LOOP.replace("for", "x = hidden_states\n        for", 1)), ("layer(hidden_states,", "layer(x,")]),
    "mask too weak": ("the mask is too weak", [("torch.finfo(hidden_states.dtype).min", "-2")]),
    "mask of NaN": ("the mask holds NaN", [("torch.finfo(hidden_states.dtype).min", "-float('inf')")]),
    "M58 first": ("the first token", [(LAST, "last = torch.zeros(B, dtype=torch.long)")]),
    "M59 .T of the module": ("AttributeError", [(TOKEN, TOKEN.replace(".weight", ""))]),
    "M59 not transposed": ("RuntimeError", [(TOKEN, TOKEN.removesuffix(".T"))]),
    "M59 positions": ("the shape is", [(TOKEN, TOKEN.replace("word", "pos"))]),
    "M60 one layer, shared": ("has no parameter", [
        ("GPT2Layer(config) for _ in range(config.num_hidden_layers)",
         "[GPT2Layer(config)] * config.num_hidden_layers")]),
    "M60 first layer only": ("only the first layer", [(LOOP, LOOP.replace("layers:", "layers[:1]:"))]),
    "M60 first layer again": ("again and again", [
        (LOOP, LOOP.replace("self.gpt_layers:", "[self.gpt_layers[0]] * len(self.gpt_layers):"))]),
    "M60 reversed": ("reverse order", [(LOOP, LOOP.replace("self.gpt_layers", "self.gpt_layers[::-1]"))]),
    "mask not handed on": ("attention_mask is ignored", [("self.embed(input_ids), attention_mask)",
                                                          "self.embed(input_ids), 0 * attention_mask + 1)")]),
    "mask of 1 and 0": ("not the mask of 1 and 0 itself", [
        ("mask = padding.to(hidden_states.dtype) * torch.finfo(hidden_states.dtype).min",
         "mask = attention_mask[:, None, None, :].to(hidden_states.dtype)")]),
    "mask of another shape": ("they need [B, 1, 1, T]", [
        ("attention_mask[:, None, None, :] == 0", "attention_mask == 0")]),
    "mask inverted": ("the wrong way round", [("[:, None, None, :] == 0", "[:, None, None, :] != 0")]),
}


@pytest.fixture(scope="module")
def folder():
    with sanity.small_checkpoint() as folder:
        yield folder


@pytest.mark.parametrize("name", MODEL)
def test_a_wrong_model_is_caught(name, folder):
    """Catches: a check too weak to see this mistake, or a diagnosis that blames something else."""
    named, edits = MODEL[name]
    model = mutate("models/gpt2.py", *edits).GPT2Model
    mistakes = caught_by(sanity.PARTS, model) or caught_by(sanity.WHOLE, model, folder)
    assert mistakes and any(named in mistake for mistake in mistakes), mistakes


@pytest.mark.parametrize("name, named, edits", [
    ("gpt2_layer", "", [("x + self.out_dropout(", "self.out_dropout(")]),
    ("attention", "not divided by sqrt(head size)", [(" / math.sqrt(hs)", "")]),
    ("attention", "tokens see what follows", [(".tril()", ".triu().T.fill_(True)")]),
])
def test_parity_names_mistakes_of_the_parts(name, named, edits, folder, monkeypatch):
    """Catches: a diagnosis that works for the parts but not for the whole."""
    mutant = mutate(f"modules/{name}.py", *edits)
    if name == "gpt2_layer":
        monkeypatch.setattr("models.gpt2.GPT2Layer", mutant.GPT2Layer)
    else:
        monkeypatch.setattr("modules.gpt2_layer.CausalSelfAttention", mutant.CausalSelfAttention)
    from models.gpt2 import GPT2Model
    mistakes = caught_by(sanity.WHOLE, GPT2Model, folder)
    assert any(named in mistake for mistake in mistakes), mistakes


def test_the_last_token_by_counting_passes_with_a_note():
    """Catches: what every student writes, and is right for each mask that training makes, taken for a mistake."""
    kind = mutate("models/gpt2.py", (LAST, "last = attention_mask.sum(dim=1) - 1")).GPT2Model
    assert caught_by(sanity.PARTS, kind) == []
    assert "mask with holes" in sanity.last_token(kind).note


def test_parity_accepts_the_exact_gelu(folder, monkeypatch):
    """Catches: a right model of the course's starter that fails on a checkpoint, or passes without a word."""
    mutant = mutate("modules/gpt2_layer.py", (', approximate="tanh"', ""))
    monkeypatch.setattr("models.gpt2.GPT2Layer", mutant.GPT2Layer)
    from models.gpt2 import GPT2Model
    result = sanity.parity(GPT2Model, folder)
    assert result.passed and "exact form" in result.note
