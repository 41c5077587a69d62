"""Mistakes in the classifier, and other right ways to write it."""

from staff.mutants.edit import Mutant, Variant

FILE = "classifier.py"
GPT = "self.gpt(input_ids, attention_mask)"
TOKEN = f'{GPT}["last_token"]'
RETURN = f"return self.head({TOKEN})"
HEAD = ("self.head = nn.Sequential(nn.Dropout(config.hidden_dropout_prob),\n"
        "                                  nn.Linear(config.hidden_size, config.num_labels))")
DROPOUT, LINEAR = "nn.Dropout(config.hidden_dropout_prob)", "nn.Linear(config.hidden_size, config.num_labels)"
FREEZE = "self.gpt.requires_grad_(not self.frozen)"
READY = "        self.train()\n"
IMPORT = "from torch import Tensor, nn\n"


def mutant(id: str, title: str, killer: str, *edits: tuple[str, str], wild: bool = False) -> Mutant:
    return Mutant(id, FILE, title, f"head.{killer}", edits, wild)


MUTANTS = [
    # What comes out.
    mutant("M61a", "the output is probabilities (softmax), and must be logits", "logits",
           (RETURN, f"{RETURN}.softmax(dim=-1)")),
    mutant("M61b", "the output is log-probabilities (log_softmax), and must be logits", "logits",
           (RETURN, f"{RETURN}.log_softmax(dim=-1)")),
    mutant("M73a", "the output is the probability of class 1 alone", "logits",
           (RETURN, f"{RETURN}.softmax(dim=-1)[:, 1]")),
    mutant("M73b", "the output has one axis too many: [B, 1, labels]", "logits", (RETURN, f"{RETURN}.unsqueeze(1)")),

    # What goes in.
    mutant("M62a", "the head reads the last position, padding or not, and must read last_token", "last_token",
           (TOKEN, f'{GPT}["last_hidden_state"][:, -1]'), wild=True),
    mutant("M62b", "the head reads the mean over the tokens, and must read last_token", "last_token",
           (TOKEN, f'{GPT}["last_hidden_state"].mean(dim=1)'), wild=True),
    mutant("M62c", "the head reads the first token, and must read last_token", "last_token",
           (TOKEN, f'{GPT}["last_hidden_state"][:, 0]')),
    mutant("M63", "the model's answer is a dict: write outputs['last_token']", "logits", (TOKEN, f"{GPT}.last_token"),
           wild=True),
    mutant("M62d", "attention_mask does not reach the model", "last_token",
           (GPT, "self.gpt(input_ids, Tensor.new_ones(input_ids, input_ids.shape))")),

    # Dropout.
    mutant("M64", "dropout is applied to the logits", "dropout",
           (RETURN, f"return self.head[0](self.head[1]({TOKEN}))"), wild=True),
    mutant("M65", "the dropout probability is fixed, and must be config.hidden_dropout_prob", "dropout",
           (DROPOUT, "nn.Dropout(0.1)"), wild=True),
    mutant("M65b", "the dropout probability is fixed, and must be config.hidden_dropout_prob", "dropout",
           (DROPOUT, "nn.Dropout(0.3)"), wild=True),
    mutant("M65c", "dropout is active in eval mode", "evaluation",
           (RETURN, f"return self.head[1](nn.functional.dropout({TOKEN}, self.head[0].p))")),

    # The head's layer.
    mutant("M66a", "the number of labels is fixed, and must be config.num_labels", "sizes",
           (LINEAR, "nn.Linear(config.hidden_size, 5)")),
    mutant("M66b", "the hidden size is fixed at 768, and must be config.hidden_size", "sizes",
           (LINEAR, "nn.Linear(768, config.num_labels)")),
    mutant("M67a", "the head is in a plain list, so its weights are no parameters of the model", "full_model",
           (HEAD, f"self.head = [{DROPOUT}, {LINEAR}]"), (RETURN, f"return self.head[1](self.head[0]({TOKEN}))")),
    mutant("M67b", "the head is made anew in every call of forward()", "evaluation",
           (RETURN, f"x = {TOKEN}\n        return nn.Linear(self.head[1].in_features, self.head[1].out_features)(x)")),

    # Freezing.
    mutant("M68a", "GPT-2 is trained in last-linear-layer mode, and must be frozen", "frozen", (FREEZE, "pass")),
    mutant("M68b", "the head is frozen too", "frozen",
           (READY, f"{READY}        self.requires_grad_(not self.frozen)\n")),
    mutant("M68c", "GPT-2 is frozen in full-model mode (torch.no_grad), and must be trained", "full_model",
           (IMPORT, f"import torch\n{IMPORT}"), (RETURN, f"with torch.no_grad():\n            x = {TOKEN}\n"
                                                         "        return self.head(x)")),
    mutant("M68d", "GPT-2 is frozen in full-model mode, and must be trained", "full_model",
           (FREEZE, "self.gpt.requires_grad_(False)")),
    mutant("M68e", "the two modes are swapped: full-model is frozen, last-linear-layer is trained", "full_model",
           (FREEZE, "self.gpt.requires_grad_(self.frozen)")),
]

VARIANTS = [
    Variant("V13a", FILE, "a head without dropout", ((DROPOUT, "nn.Identity()"),), ("M64", "M65c")),
    Variant("V13b", FILE, "one more layer with Tanh", (
        (LINEAR, f"nn.Sequential(nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), {LINEAR})"),),
        ("M67b",)),
    Variant("V13c", FILE, "other names", ((HEAD, f"self.drop, self.proj = {DROPOUT}, {LINEAR}"),
                                         (RETURN, f"return self.proj(self.drop({TOKEN}))"))),
    Variant("V13d", FILE, "frozen parameter by parameter; the mode of a frozen GPT-2 left alone", (
        (FREEZE, "for parameter in self.gpt.parameters():\n            parameter.requires_grad = not self.frozen"),
        ("        if self.frozen:\n            self.gpt.eval()\n", ""))),
    Variant("V13e", FILE, "frozen by torch.no_grad() in forward", (
        (IMPORT, f"import torch\n{IMPORT}"),
        (RETURN, f"with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):\n            x = {TOKEN}\n"
                 "        return self.head(x)"))),
    Variant("V14e", FILE, "prints on the way", (
        (f"        {RETURN}", f"        print(input_ids, attention_mask)\n        {RETURN}"),)),
    Variant("V15e", FILE, "one more argument with a default", (
        ("def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:",
         "def forward(self, input_ids: Tensor, attention_mask: Tensor, labels=None) -> Tensor:"),)),
]
