"""The checks of sanity/ bite: each known mistake, made in our own source, is caught, most of them by name.

The numbers M27 to M52 are those of the course's list of mistakes seen in students' code.
"""

import pytest

from sanity import attention, layer
from tests.mutants import caught_by, mutate

CAUSAL = "scores.masked_fill(~causal, -math.inf)"
PADDING = " + attention_mask"
SOFTMAX = "self.dropout(scores.softmax(dim=-1))"
SPLIT = "x.view(B, T, self.num_attention_heads, C // self.num_attention_heads).transpose(1, 2)"

ATTENTION = {  # name: (part of a mistake that must be named, edits)
    "M27 no scale": ("not divided by sqrt(head size)", [(" / math.sqrt(hs)", "")]),
    "M28 scale by hs": ("divided by the head size", [("math.sqrt(hs)", "hs")]),
    "M28 scale by sqrt(C)": ("sqrt(hidden size)", [("math.sqrt(hs)", "math.sqrt(hidden_states.shape[-1])")]),
    "M28 scale twice": ("divided by the head size", [("math.sqrt(hs)", "math.sqrt(hs) / math.sqrt(hs)")]),
    "M28 scale upside down": ("multiplied by sqrt(head size)", [(" / math.sqrt(hs)", " * math.sqrt(hs)")]),
    "M29 no causal mask": ("there is no causal mask", [(CAUSAL, "scores")]),
    "M30 one ahead": ("one token ahead", [(".tril()", ".tril(1)")]),
    "M30 strict": ("hides each token from itself", [(".tril()", ".tril(-1)")]),
    "M30 earlier tokens hidden": ("hides earlier tokens", [(".tril()", ".triu(1)")]),
    "M37 query for key": ("made by self.query, self.query and self.value",
                          [("self.split_heads(self.key(", "self.split_heads(self.query( ")]),
    "M31 transposed": ("transposed", [(".tril()", ".triu()")]),
    "M32 masked scores are 0": ("set to 0", [(CAUSAL, CAUSAL.replace("-math.inf", "0.0"))]),
    "M33 mask after softmax": ("", [(CAUSAL, "scores"), (SOFTMAX, "self.dropout(scores.softmax(dim=-1).tril())")]),
    "M34 padding multiplied": ("", [(PADDING, PADDING.replace("+", "*"))]),
    "M34 all scores multiplied": ("the same weight", [(PADDING, PADDING.replace("+", "*")), (CAUSAL, "scores"), (
        "weights = ", "scores = scores.masked_fill(~causal, -math.inf); weights = ")]),
    "M35 padding subtracted": ("subtracted", [(PADDING, PADDING.replace("+", "-"))]),
    "M35 padding ignored": ("attention_mask is ignored", [(PADDING, "")]),
    "M35 padding inverted": ("inverted", [(PADDING, " - 1e9 * (attention_mask == 0)")]),
    "M35 padding too weak": ("too weak", [(PADDING, " + attention_mask.clamp(min=-1)")]),
    "M36 softmax over queries": ("", [("softmax(dim=-1))", "softmax(dim=-2))")]),
    "M36 softmax over heads": ("", [("softmax(dim=-1))", "softmax(dim=1))")]),
    "M37 query and key swapped": ("query and key are swapped",
                                  [("query @ key.transpose", "key @ query.transpose")]),
    "M37 key and value swapped": ("key and value are swapped", [
        ("self.split_heads(self.key(", "self.split_heads(self.value( "),
        ("self.split_heads(self.value(h", "self.split_heads(self.key(h")]),
    "M38 split by view": ("split by a view", [(SPLIT, "x.reshape(B, self.num_attention_heads, T, -1)")]),
    "M38 merge by view": ("merged by a view", [
        ("mixed.transpose(1, 2).flatten(2)", "mixed.reshape(hidden_states.shape)")]),
    "M38 one head": ("one large head", [("self.num_attention_heads = nh", "self.num_attention_heads = 1")]),
    "M39 dropout on scores": ("before the softmax", [(SOFTMAX, "self.dropout(scores).softmax(dim=-1)")]),
    "M40 no dropout": ("no dropout", [(SOFTMAX, "scores.softmax(dim=-1)")]),
    "M40 dropout on values": ("single numbers", [(SOFTMAX, "scores.softmax(dim=-1)"),
                                                 ("weights @ value", "weights @ self.dropout(value)")]),
    "M40 dropout in eval": ("active in eval mode",
                            [(SOFTMAX, "nn.functional.dropout(scores.softmax(dim=-1), self.dropout.p, True)")]),
    "M41 mask on the CPU": ("device", [("dtype=torch.bool, device=scores.device)", "dtype=torch.bool)")]),
    "M42 heads fixed": ("", [("self.num_attention_heads = nh", "self.num_attention_heads = 4")]),
    "M42 length fixed": ("", [("torch.ones(T, T,", "torch.ones(8, 8,"), (".tril()", ".tril()[:T, :T]")]),
    "M43 mask changed in place": ("in place", [(PADDING, " + attention_mask.add_(-1.0)")]),
    "float32 fixed": ("float64", [("weights @ value", "(weights @ value).float()")]),
    "softmax by hand": ("maximum", [(SOFTMAX, "self.dropout(scores.exp() / scores.exp().sum(-1, keepdim=True))")]),
    "detached": ("no gradient reaches", [("weights @ value", "weights.detach() @ value")]),
}

NORM_1, NORM_2 = "self.attention_layer_norm(x)", "self.out_layer_norm(x)"
FIRST = "x = x + self.attention_dropout(self.attention_dense(attended))"
SECOND = "return x + self.out_dropout(self.out_dense(inner))"
GELU = 'F.gelu(self.interm_dense(self.out_layer_norm(x)), approximate="tanh")'

LAYER = {
    "M44 post-norm": ("post-norm", [
        (NORM_1, "x"), (NORM_2, "x"), (FIRST, f"{FIRST}; x = {NORM_1}"),
        (SECOND, SECOND.replace("return x", "return self.out_layer_norm(x") + ")")]),
    "M45 first norm missing": ("attention_layer_norm is missing", [(NORM_1, "x")]),
    "M45 second norm missing": ("out_layer_norm is missing", [(NORM_2, "x")]),
    "M45 first norm twice": ("both places", [(NORM_2, NORM_1)]),
    "M46 residual of the normed input": ("taken from the normalised input", [
        ("attended = self", f"x = {NORM_1}; attended = self"), (f"self_attention({NORM_1}", "self_attention(x")]),
    "M46 second residual normed": ("the second residual is taken", [
        ("inner = ", "x = self.out_layer_norm( x); inner = "), (NORM_2, "x")]),
    "M46 both residuals normed": ("both residuals are taken", [
        ("x = hidden_states", "x = self.attention_layer_norm( hidden_states)"), (NORM_1, "x"),
        ("inner = ", "x = self.out_layer_norm( x); inner = "), (NORM_2, "x")]),
    "M46 second residual from the input": ("not to the first half's sum", [
        (SECOND, SECOND.replace("x +", "hidden_states +"))]),
    "M45 no norm": ("both norms are missing", [(NORM_1, "x"), (NORM_2, "x")]),
    "M45 norms behind the branches": ("come after the branches", [
        (NORM_1, "x"), (NORM_2, "x"), (FIRST, "x = x + self.attention_layer_norm(self.attention_dense(attended))"),
        (SECOND, "return x + self.out_layer_norm(self.out_dense(inner))")]),
    "M47 both residuals missing": ("both residual connections", [
        (FIRST, FIRST.replace("x + ", "")), (SECOND, SECOND.replace("x + ", ""))]),
    "M50 activation after attention": ("a GELU after attention_dense", [
        ("self.attention_dense(attended)", 'F.gelu(self.attention_dense(attended), approximate="tanh")')]),
    "M50 a second activation": ("a GELU after out_dense", [
        ("self.out_dense(inner)", 'F.gelu(self.out_dense(inner), approximate="tanh")')]),
    "mask not handed on": ("attention_mask does not reach", [("attention_mask)\n        x", "None)\n        x")]),
    "M47 first residual missing": ("first residual connection is missing", [(FIRST, FIRST.replace("x + ", ""))]),
    "M47 second residual missing": ("second residual connection is missing",
                                    [(SECOND, SECOND.replace("x + ", ""))]),
    "M48 parallel": ("reads the layer's input", [(NORM_2, "self.out_layer_norm(hidden_states)")]),
    "M49 no projection": ("attention_dense is not applied", [("self.attention_dense(attended)", "attended")]),
    "M49 projected twice": ("attention_dense is applied twice",
                            [("self.attention_dense(attended)",
                              "self.attention_dense(self.attention_dense(attended))")]),
    "M50 no activation": ("no activation", [(GELU, f"self.interm_dense({NORM_2})")]),
    "M50 activation at the end": ("", [(GELU, f"self.interm_dense({NORM_2})"),
                                       ("self.out_dense(inner)", "F.gelu(self.out_dense(inner))")]),
    "M50 relu": ("ReLU", [(GELU, f"F.relu(self.interm_dense({NORM_2}))")]),
    "M50 sigmoid": ("sigmoid", [("inner = ", "inner = self.interm_dense(self.out_layer_norm( x)); inner = "),
                                (GELU, "inner * (1.702 * inner).sigmoid()")]),
    "M51 dropout before attention_dense": ("before the dense layer", [
        ("self.attention_dropout(self.attention_dense(attended))",
         "self.attention_dense(self.attention_dropout(attended))")]),
    "M51 dropout before out_dense": ("before the dense layer", [
        ("self.out_dropout(self.out_dense(inner))", "self.out_dense(self.out_dropout(inner))")]),
    "M51 dropout on the first sum": ("the sum", [
        (FIRST, "x = self.attention_dropout(x + self.attention_dense(attended))")]),
    "M51 dropout on the second sum": ("the sum", [
        (SECOND, "return self.out_dropout(x + self.out_dense(inner))")]),
    "M52 dropouts swapped": ("swapped", [("self.attention_dropout(", "self.out_dropout( "),
                                         ("self.out_dropout(self", "self.attention_dropout(self")]),
    "no attention dropout": ("no dropout here", [("self.attention_dropout(self.attention_dense(attended))",
                                                  "self.attention_dense(attended)")]),
    "no out dropout": ("no dropout here", [("self.out_dropout(self.out_dense(inner))", "self.out_dense(inner)")]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_a_wrong_attention_is_caught(name):
    """Catches: a check too weak to see this mistake, or a diagnosis that blames something else."""
    named, edits = ATTENTION[name]
    mistakes = caught_by(attention.CHECKS, mutate("modules/attention.py", *edits).CausalSelfAttention)
    assert mistakes and any(named in mistake for mistake in mistakes), mistakes


@pytest.mark.parametrize("name", LAYER)
def test_a_wrong_layer_is_caught(name):
    """Catches: a check too weak to see this mistake, or a diagnosis that blames something else."""
    named, edits = LAYER[name]
    mistakes = caught_by(layer.CHECKS, mutate("modules/gpt2_layer.py", *edits).GPT2Layer)
    assert mistakes and any(named in mistake for mistake in mistakes), mistakes


@pytest.mark.parametrize("edits", [
    [(CAUSAL, "scores.masked_fill(~causal, torch.finfo(scores.dtype).min)")],
    [(CAUSAL, "scores + torch.full_like(scores[0, 0], -1e4).triu(1)")],
    [(" / math.sqrt(hs)", " * hs ** -0.5")],
    [(SOFTMAX, "self.dropout(nn.Softmax(dim=-1)(scores))")],
    [("weights @ value", "torch.einsum('bhij,bhjd->bhid', weights, value)")],
    [(PADDING, " + (attention_mask + 1.0)")],  # softmax does not see what is added everywhere
], ids=["finfo.min", "-1e4", "root", "nn.Softmax", "einsum", "one more"])
def test_a_right_attention_passes(edits):
    """Catches: a check that refuses another right way to write attention."""
    assert caught_by(attention.CHECKS, mutate("modules/attention.py", *edits).CausalSelfAttention) == []


def test_the_exact_gelu_passes_with_a_note():
    """Catches: a right layer of the course's starter that fails, and dropout mistakes in it that are overlooked."""
    kind = mutate("modules/gpt2_layer.py", (', approximate="tanh"', "")).GPT2Layer
    assert caught_by(layer.CHECKS, kind) == []
    assert "exact (erf) form" in layer.known_answer(kind).note
    assert layer.known_answer(mutate("modules/gpt2_layer.py", ("import torch", "import torch ")).GPT2Layer).note == ""
    wrong = mutate("modules/gpt2_layer.py", (', approximate="tanh"', ""), (
        "self.out_dropout(self.out_dense(inner))", "self.out_dense(inner)")).GPT2Layer
    assert caught_by(layer.CHECKS, wrong) == [
        "out_dropout: there is no dropout here in training: call self.out_dropout"]


@pytest.mark.parametrize("old, new", [
    ("nn.Dropout(config.attention_probs_dropout_prob)", "nn.Dropout(0.1)"),
    ("self.dropout(scores.softmax(dim=-1))",
     "nn.functional.dropout(scores.softmax(dim=-1), 0.1, self.training)"),
])
def test_a_dropout_probability_of_its_own_is_named(old, new):
    """Catches: "no known mistake" for a probability that ignores the config."""
    kind = mutate("modules/attention.py", (old, new)).CausalSelfAttention
    mistakes = caught_by(attention.CHECKS, kind)
    assert any("take config.attention_probs_dropout_prob" in mistake for mistake in mistakes), mistakes


def test_dropout_before_the_softmax_with_finite_masks_is_named():
    """Catches: a diagnosis that knows this mistake with masks of -inf only."""
    kind = mutate("modules/attention.py", (CAUSAL, "scores.masked_fill(~causal, -1e4)"), (
        SOFTMAX, "self.dropout(scores).softmax(dim=-1)")).CausalSelfAttention
    assert "before the softmax" in attention.dropout(kind).mistake
