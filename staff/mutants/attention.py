"""Mistakes in causal self-attention, and other right ways to write it."""

from staff.mutants.edit import Mutant, Variant

FILE = "modules/attention.py"
SCALE = " / math.sqrt(hs)"
BOTH = "scores.masked_fill(~causal, -math.inf) + attention_mask"
CAUSAL = "scores.masked_fill(~causal, -math.inf)"
PADDING = " + attention_mask"
TRIANGLE = "torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()"
SOFTMAX = "scores.softmax(dim=-1)"
WEIGHTS = f"self.dropout({SOFTMAX})"
SPLIT = "x.view(B, T, self.num_attention_heads, C // self.num_attention_heads).transpose(1, 2)"
MERGE = "mixed.transpose(1, 2).flatten(2)"
QUERY, KEY, VALUE = (f"{name} = self.split_heads(self.{name}(hidden_states))" for name in ("query", "key", "value"))
DROPOUT = "self.dropout = nn.Dropout(config.attention_probs_dropout_prob)"
HEADS = "self.num_attention_heads = nh"


def mutant(id: str, title: str, killer: str, *edits: tuple[str, str], wild: bool = False) -> Mutant:
    return Mutant(id, FILE, title, f"attention.{killer}", edits, wild)


MUTANTS = [
    # Scores.
    mutant("M27", "the scores are not divided by sqrt(head size)", "known_answer", (SCALE, "")),
    mutant("M28a", "the scores are divided by the head size, and must be divided by its root", "known_answer",
           ("math.sqrt(hs)", "hs")),
    mutant("M28b", "the scores are divided by sqrt(hidden size), and must be divided by sqrt(head size)",
           "known_answer", ("math.sqrt(hs)", "math.sqrt(hidden_states.shape[-1])")),
    mutant("M28c", "the scores are divided by the head size, and must be divided by its root", "known_answer",
           (SCALE, f"{SCALE}{SCALE}")),
    mutant("M37a", "query and key are swapped", "known_answer",
           (QUERY, QUERY.replace("self.query", "self.key ")), (KEY, KEY.replace("self.key", "self.query "))),
    mutant("M37b", "key and value are swapped", "known_answer",
           (KEY, KEY.replace("self.key", "self.value ")), (VALUE, VALUE.replace("self.value", "self.key "))),

    # The causal mask.
    mutant("M29", "there is no causal mask", "causality", (CAUSAL, "scores"), wild=True),
    mutant("M30a", "the causal mask is off by one: each token sees the next", "causality", (".tril()", ".tril(1)")),
    mutant("M30b", "the causal mask is off by one: it hides each token from itself", "known_answer",
           (".tril()", ".tril(-1)")),
    mutant("M30c", "the causal mask is off by one: it hides each token from itself", "known_answer",
           (".tril()", ".tril(-1)"), (CAUSAL, CAUSAL.replace("-math.inf", "torch.finfo(scores.dtype).min"))),
    mutant("M31", "the causal mask is transposed", "causality", (".tril()", ".triu()")),
    mutant("M32", "masked scores become 0, and must become -inf", "known_answer",
           (CAUSAL, CAUSAL.replace("-math.inf", "0.0"))),
    mutant("M33a", "the causal mask comes after the softmax: the weights no longer add up to 1", "known_answer",
           (CAUSAL, "scores"), (SOFTMAX, f"{SOFTMAX}.tril()")),
    mutant("M33b", "attention_mask is added after the softmax", "known_answer",
           (PADDING, ""), (SOFTMAX, f"({SOFTMAX} + attention_mask)")),
    mutant("M41", "the causal mask is made without device=..., which fails on a GPU", "any_device",
           (", device=scores.device", ""), wild=True),
    mutant("M42a", "the causal mask has a fixed length", "shapes",
           (TRIANGLE, TRIANGLE.replace("T, T", "512, 512") + "[:T, :T]")),
    mutant("M42b", "the number of heads is fixed", "shapes", (HEADS, "self.num_attention_heads = 12")),

    # The padding mask.
    mutant("M34", "attention_mask is multiplied, and must be added", "known_answer", (BOTH, f"({CAUSAL}) * "
           "attention_mask"), wild=True),
    mutant("M34b", "attention_mask is multiplied, and must be added", "known_answer",
           (BOTH, "(scores * attention_mask).masked_fill(~causal, -math.inf)"), wild=True),
    mutant("M35a", "attention_mask is ignored", "padding", (PADDING, "")),
    mutant("M35b", "attention_mask is inverted", "padding", (PADDING, " - 1e4 * (attention_mask == 0)")),
    mutant("M35c", "attention_mask is too weak: it must count in full", "padding",
           (PADDING, " + attention_mask.clamp(min=-1)")),
    mutant("M35d", "attention_mask has the wrong sign", "padding", (PADDING, " - attention_mask")),
    mutant("M43", "forward() changes attention_mask in place", "inputs_unchanged",
           (PADDING, " + attention_mask.mul_(2)")),

    # Softmax, heads.
    mutant("M36a", "the softmax runs over the queries, and must run over the keys", "known_answer",
           ("softmax(dim=-1)", "softmax(dim=-2)")),
    mutant("M36b", "the softmax runs over the heads, and must run over the keys", "known_answer",
           ("softmax(dim=-1)", "softmax(dim=1)")),
    mutant("M38a", "heads are split by a view: the transpose is missing", "known_answer",
           (SPLIT, "x.reshape(B, self.num_attention_heads, T, -1)")),
    mutant("M38b", "heads are merged by a view: the transpose is missing", "known_answer",
           (MERGE, "mixed.reshape(hidden_states.shape)")),
    mutant("M38c", "there is one large head", "known_answer", (HEADS, "self.num_attention_heads = 1")),

    # Dropout.
    mutant("M39", "dropout comes before the softmax", "dropout", (WEIGHTS, "self.dropout(scores).softmax(dim=-1)"),
           wild=True),
    mutant("M40a", "there is no dropout", "dropout", (WEIGHTS, SOFTMAX), wild=True),
    mutant("M40b", "dropout is applied to the values, and must be applied to the weights", "dropout_on_weights",
           (WEIGHTS, SOFTMAX), ("weights @ value", "weights @ self.dropout(value)")),
    mutant("M40c", "dropout is active in eval mode", "dropout_in_eval",
           (WEIGHTS, f"nn.functional.dropout({SOFTMAX}, self.dropout.p, True)")),
    mutant("M40d", "dropout is active in eval mode", "dropout_in_eval",
           (WEIGHTS, f"nn.functional.dropout({SOFTMAX}, self.dropout.p)")),
    mutant("M40e", "the dropout probability is fixed, and must be config.attention_probs_dropout_prob", "dropout",
           (DROPOUT, "self.dropout = nn.Dropout(0.1)")),
    mutant("M40f", "dropout is applied to the output, and must be applied to the weights", "dropout_on_weights",
           (WEIGHTS, SOFTMAX), (f"return {MERGE}", f"return self.dropout({MERGE})")),
]

VARIANTS = [
    Variant("V7a", FILE, "causal mask added: -1e4", ((CAUSAL, "scores + -1e4 * (~causal)"),)),
    Variant("V7b", FILE, "causal mask added: -1e9", ((CAUSAL, "scores + -1e9 * (~causal)"),)),
    Variant("V7c", FILE, "causal mask added: the smallest number", (
        (CAUSAL, "scores.masked_fill(~causal, torch.finfo(scores.dtype).min)"),
        (PADDING, " + attention_mask / 2"))),
    Variant("V7d", FILE, "both masks filled with -inf", (
        (BOTH, "scores.masked_fill(~causal | (attention_mask < -1), -math.inf)"),)),
    Variant("V7e", FILE, "masks combined, then clamped", (
        (BOTH, "scores + ((~causal) * -1e9 + attention_mask).clamp(min=-1e9)"),)),
    Variant("V7f", FILE, "1 more on what is allowed", ((PADDING, " + (attention_mask + 1.0)"),)),
    Variant("V7g", FILE, "nan_to_num after the softmax", (
        (BOTH, "scores.masked_fill(~causal | (attention_mask < -1), -math.inf)"),
        (SOFTMAX, f"{SOFTMAX}.nan_to_num()"))),
    Variant("V8", FILE, "the causal mask in a buffer that is not saved", (
        (DROPOUT, f'{DROPOUT}\n        self.register_buffer("causal", torch.ones(1024, 1024, dtype=torch.bool).tril(), '
                  'persistent=False)'), (TRIANGLE, "self.causal[:T, :T]"))),
    Variant("V9a", FILE, "torch.einsum", (
        ("query @ key.transpose(-2, -1)", "torch.einsum('bhid,bhjd->bhij', query, key)"),
        ("weights @ value", "torch.einsum('bhij,bhjd->bhid', weights, value)")), ("M38a",)),
    Variant("V9b", FILE, "einops", (
        ("import torch\n", "import torch\nfrom einops import rearrange\n"),
        (SPLIT, 'rearrange(x, "b t (h d) -> b h t d", h=self.num_attention_heads)'),
        (MERGE, 'rearrange(mixed, "b h t d -> b t (h d)")'))),
    Variant("V9c", FILE, "nn.Softmax, and hs ** -0.5", ((SCALE, " * hs ** -0.5"),
                                                        (SOFTMAX, "nn.Softmax(dim=-1)(scores)"))),
    Variant("V14b", FILE, "prints on the way", (("        mixed = ", "        print(weights)\n        mixed = "),)),
    Variant("V15b", FILE, "one more argument with a default", (
        ("attention_mask: Tensor) -> Tensor:", "attention_mask: Tensor, return_attn_probs=False) -> Tensor:"),)),
    Variant("V16", FILE, "F.scaled_dot_product_attention", (
        (BOTH, "torch.zeros(T, T, dtype=scores.dtype, device=scores.device).masked_fill(~causal, -math.inf) "
               "+ attention_mask"),
        (f"        weights = {WEIGHTS}", "        p = self.dropout.p if self.training else 0.0"),
        ("weights @ value", "nn.functional.scaled_dot_product_attention(query, key, value, scores, p)"))),
]
