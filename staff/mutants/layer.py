"""Mistakes in a GPT-2 block, and other right ways to write it."""

from staff.mutants.edit import Mutant, Variant

FILE = "modules/gpt2_layer.py"
NORM_1, NORM_2 = "self.attention_layer_norm(x)", "self.out_layer_norm(x)"
ATTEND = f"attended = self.self_attention({NORM_1}, attention_mask)"
BRANCH_1, BRANCH_2 = "self.attention_dropout(self.attention_dense(attended))", "self.out_dropout(self.out_dense(inner))"
FIRST, SECOND = f"x = x + {BRANCH_1}", f"return x + {BRANCH_2}"
GELU = f'F.gelu(self.interm_dense({NORM_2}), approximate="tanh")'
HIDDEN = f"self.interm_dense({NORM_2})"
DROP_1, DROP_2 = (f"self.{name}_dropout = nn.Dropout(config.hidden_dropout_prob)" for name in ("attention", "out"))


def mutant(id: str, title: str, killer: str, *edits: tuple[str, str], wild: bool = False) -> Mutant:
    return Mutant(id, FILE, title, f"layer.{killer}", edits, wild)


MUTANTS = [
    # Norms.
    mutant("M44", "the norms come after the additions (post-norm)", "known_answer",
           (ATTEND, ATTEND.replace(NORM_1, "x")), (FIRST, f"{FIRST}; x = {NORM_1}"), (HIDDEN, "self.interm_dense(x)"),
           (SECOND, SECOND.replace("return x", "return self.out_layer_norm(x") + ")")),
    mutant("M45a", "attention_layer_norm is missing", "known_answer", (ATTEND, ATTEND.replace(NORM_1, "x"))),
    mutant("M45b", "out_layer_norm is missing", "known_answer", (HIDDEN, "self.interm_dense(x)")),
    mutant("M45c", "attention_layer_norm is used in both places", "known_answer",
           (HIDDEN, f"self.interm_dense({NORM_1})")),
    mutant("M45d", "the two norms are swapped", "known_answer",
           (ATTEND, ATTEND.replace("attention_layer", "out_layer")),
           (HIDDEN, HIDDEN.replace("out_layer", "attention_layer"))),

    # The residual stream.
    mutant("M46a", "the first residual is taken from the normalised input", "known_answer",
           (ATTEND, f"x = {NORM_1}; {ATTEND.replace(NORM_1, 'x')}"), wild=True),
    mutant("M46b", "the second residual is taken from the normalised input", "known_answer",
           ("        inner = ", f"        x = {NORM_2}\n        inner = "), (HIDDEN, "self.interm_dense(x)"),
           wild=True),
    mutant("M47a", "the first residual connection is missing", "known_answer", (FIRST, f"x = {BRANCH_1}"), wild=True),
    mutant("M47b", "the second residual connection is missing", "known_answer",
           (SECOND, f"return {BRANCH_2}"), wild=True),
    mutant("M47c", "the second residual is taken from the layer's input", "known_answer",
           (SECOND, SECOND.replace("x +", "hidden_states +"))),
    mutant("M48", "the feed-forward half reads the layer's input, and must read the first half's output",
           "known_answer", (HIDDEN, HIDDEN.replace("(x)", "(hidden_states)"))),

    # The dense layers and the activation.
    mutant("M49a", "attention_dense is not applied", "known_answer",
           ("self.attention_dense(attended)", "attended")),
    mutant("M49b", "attention_dense is applied twice", "known_answer",
           ("self.attention_dense(attended)", "self.attention_dense(self.attention_dense(attended))")),
    mutant("M50a", "there is no activation between the dense layers", "known_answer", (GELU, HIDDEN)),
    mutant("M50b", "the activation comes after out_dense", "known_answer",
           (GELU, HIDDEN), ("self.out_dense(inner)", 'F.gelu(self.out_dense(inner), approximate="tanh")')),
    mutant("M50c", "the activation is ReLU, and must be GELU", "known_answer", (GELU, f"F.relu({HIDDEN})")),
    mutant("M50d", "the activation is x * sigmoid(1.702 x), and must be GELU", "known_answer",
           (GELU, f"{HIDDEN}; inner = inner * (1.702 * inner).sigmoid()")),

    # Dropout.
    mutant("M51a", "dropout comes before attention_dense, and must come after it", "attention_dropout",
           (BRANCH_1, "self.attention_dense(self.attention_dropout(attended))")),
    mutant("M51b", "dropout comes before out_dense, and must come after it", "out_dropout",
           (BRANCH_2, "self.out_dense(self.out_dropout(inner))")),
    mutant("M51c", "dropout is applied to the first sum, and must be applied to what is added", "attention_dropout",
           (FIRST, "x = self.attention_dropout(x + self.attention_dense(attended))")),
    mutant("M51d", "dropout is applied to the second sum, and must be applied to what is added", "out_dropout",
           (SECOND, "return self.out_dropout(x + self.out_dense(inner))")),
    mutant("M51e", "there is no dropout after attention_dense", "attention_dropout",
           (BRANCH_1, "self.attention_dense(attended)")),
    mutant("M51f", "there is no dropout after out_dense", "out_dropout", (BRANCH_2, "self.out_dense(inner)")),
    mutant("M51g", "there is no dropout in this file", "attention_dropout",
           (BRANCH_1, "self.attention_dense(attended)"), (BRANCH_2, "self.out_dense(inner)")),
    mutant("M52", "attention_dropout and out_dropout are swapped", "attention_dropout",
           (BRANCH_1, BRANCH_1.replace("attention_dropout", "out_dropout ")),
           (BRANCH_2, BRANCH_2.replace("out_dropout", "attention_dropout "))),
]

VARIANTS = [
    Variant("V10", FILE, "with a method add(), as in the course's starter", (
        (FIRST, "x = self.add(x, attended, self.attention_dense, self.attention_dropout)"),
        (SECOND, "return self.add(x, inner, self.out_dense, self.out_dropout)\n\n"
                 "    def add(self, input, output, dense_layer, dropout):\n"
                 "        return input + dropout(dense_layer(output))"))),
    Variant("V11a", FILE, "the exact GELU (erf)", ((', approximate="tanh"', ""),)),
    Variant("V11b", FILE, "the tanh GELU, written out", (
        (GELU, f"{HIDDEN}; inner = 0.5 * inner * (1 + (0.7978845608028654 * (inner + 0.044715 * inner**3)).tanh())"),)),
    Variant("V14c", FILE, "prints on the way", (("        inner = ", "        print(x)\n        inner = "),)),
    Variant("V15c", FILE, "one more argument with a default", (
        ("attention_mask: Tensor) -> Tensor:", "attention_mask: Tensor, return_attn_probs=False) -> Tensor:"),)),
]
