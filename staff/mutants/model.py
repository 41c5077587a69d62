"""Mistakes in GPT-2's embedding, stack and output, and other right ways to write it."""

from staff.mutants.edit import Mutant, Variant

FILE = "models/gpt2.py"
WORDS, PLACES = "self.word_embedding(input_ids)", "self.pos_embedding(positions)"
SUM = f"{WORDS} + {PLACES}"
EMBED = f"return self.embed_dropout({SUM})"
FINAL = "self.final_layer_norm(self.encode(self.embed(input_ids), attention_mask))"
LAST = "last = (attention_mask.ne(0) * torch.arange(T, device=input_ids.device)).argmax(dim=1)"
TOKEN = "return hidden_state @ self.word_embedding.weight.T"
LOOP = "for layer in self.gpt_layers:\n            hidden_states"
LAYERS = "GPT2Layer(config) for _ in range(config.num_hidden_layers)"
MASK = "mask = padding.to(hidden_states.dtype) * torch.finfo(hidden_states.dtype).min"
PADDING = "padding = attention_mask[:, None, None, :] == 0"
DROPOUT = "self.embed_dropout = nn.Dropout(config.hidden_dropout_prob)"


def mutant(id: str, title: str, killer: str, *edits: tuple[str, str], wild: bool = False) -> Mutant:
    return Mutant(id, FILE, title, f"model.{killer}", edits, wild)


MUTANTS = [
    # embed
    mutant("M53a", "the position embedding is missing", "embed", (SUM, WORDS)),
    mutant("M53b", "positions start at 1, and must start at 0", "embed", (SUM, f"{WORDS} + "
           "self.pos_embedding((positions + 1).clamp(max=longest - 1))")),
    mutant("M53e", "positions start at 1, and must start at 0", "embed",
           (SUM, SUM.replace("positions", "positions + 1"))),
    mutant("M53c", "every token gets position 0", "embed", (SUM, SUM.replace("positions", "positions * 0"))),
    mutant("M53d", "the position is the row's number, and must be the token's", "embed",
           (SUM, f"{WORDS} + self.pos_embedding(torch.arange(len(input_ids)) % longest)[:, None]")),
    mutant("M54a", "there is no dropout on the embedding", "embed_dropout", (EMBED, f"return {SUM}")),
    mutant("M54b", "dropout is applied to the token embedding only", "embed_dropout",
           (EMBED, f"return self.embed_dropout({WORDS}) + {PLACES}")),
    mutant("M54c", "dropout is applied to the position embedding only", "embed_dropout",
           (EMBED, f"return {WORDS} + self.embed_dropout({PLACES})")),
    mutant("M55a", "the token embedding is multiplied by sqrt(hidden size)", "embed",
           (SUM, f"{WORDS} * self.config.hidden_size**0.5 + {PLACES}")),
    mutant("M55b", "there is a LayerNorm after the embedding", "embed",
           (EMBED, f"return self.embed_dropout(self.final_layer_norm({SUM}))")),

    # encode
    mutant("M60a", "there is one layer, which stands in the list again and again", "layers",
           (LAYERS, "[GPT2Layer(config)] * config.num_hidden_layers")),
    mutant("M60b", "only the first layer is run", "layers", (LOOP, LOOP.replace("layers:", "layers[:1]:"))),
    mutant("M60c", "the first layer is run again and again", "layers",
           (LOOP, LOOP.replace("self.gpt_layers:", "[self.gpt_layers[0]] * len(self.gpt_layers):"))),
    mutant("M60d", "the layers are run in reverse order", "layers", (LOOP, LOOP.replace("layers:", "layers[::-1]:"))),
    mutant("M60e", "every layer reads the embedding, and must read the layer before", "layers",
           ("hidden_states = layer(hidden_states, mask)\n        return hidden_states",
            "output = layer(hidden_states, mask)\n        return output")),
    mutant("M35e", "attention_mask is ignored: padding is not marked in the mask for the layers", "mask",
           (MASK, f"{MASK} * 0")),
    mutant("M35f", "the mask for the layers is inverted: tokens are hidden, padding is seen", "mask",
           (PADDING, PADDING.replace("==", "!="))),
    mutant("M35g", "the layers get the mask of 1 and 0 itself, and need 0 and a very large negative number", "mask",
           (MASK, "mask = attention_mask[:, None, None, :].to(hidden_states.dtype)")),

    # forward
    mutant("M56a", "the final LayerNorm is missing", "final_layer_norm",
           (FINAL, FINAL.removeprefix("self.final_layer_norm"))),
    mutant("M56b", "the final LayerNorm is applied twice", "final_layer_norm",
           (FINAL, f"self.final_layer_norm({FINAL})")),
    mutant("M57", "the LayerNorm's eps is fixed, and must be config.layer_norm_eps", "final_layer_norm",
           ("eps=config.layer_norm_eps", "eps=1e-12")),
    mutant("M58a", "last_token is the last position, padding or not", "last_token",
           (LAST, "last = torch.full((B,), -1)"), wild=True),
    mutant("M58b", "last_token is one position too far: the index is sum - 1", "last_token",
           (LAST, "last = attention_mask.long().sum(dim=1).clamp(max=T - 1)"), wild=True),
    mutant("M58c", "last_token is one position too far: the index is sum - 1", "last_token",
           (LAST, "last = attention_mask.long().sum(dim=1)"), wild=True),
    mutant("M58d", "last_token is the first token", "last_token", (LAST, "last = torch.zeros(B, dtype=torch.long)")),
    mutant("M58e", "last_token is the mean over the tokens", "last_token",
           ("last_token = hidden_states[torch.arange(B, device=input_ids.device), last]",
            "last_token = hidden_states.mean(dim=1)")),
    mutant("M58f", "last_token is taken before the final LayerNorm", "last_token",
           (FINAL, "self.encode(self.embed(input_ids), attention_mask)"),
           ('return {"last_hidden_state": hidden_states,',
            'return {"last_hidden_state": self.final_layer_norm(hidden_states),')),

    # hidden_state_to_token
    mutant("M59a", "hidden_state_to_token crashes: .T of the module, and must be of its weight", "output_layer",
           (TOKEN, TOKEN.replace(".weight", "")), wild=True),
    mutant("M59b", "hidden_state_to_token crashes: the weight is not transposed", "output_layer",
           (TOKEN, TOKEN.removesuffix(".T"))),
    mutant("M59c", "hidden_state_to_token adds a bias", "output_layer",
           (TOKEN, f"{TOKEN} + self.word_embedding.weight.mean(dim=1)")),
    mutant("M59d", "hidden_state_to_token uses a layer of its own, and must share the token embedding", "output_layer",
           (TOKEN, "return nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False, "
                   "dtype=hidden_state.dtype)(hidden_state)")),
]

VARIANTS = [
    Variant("V12a", FILE, "last_token from the sum of the mask", (
        (LAST, "last = attention_mask.long().sum(dim=1) - 1"),)),
    Variant("V12b", FILE, "last_token from the flipped mask", (
        (LAST, "last = T - 1 - attention_mask.flip(1).ne(0).long().argmax(dim=1)"),)),
    Variant("V7h", FILE, "padding as -1e4", ((MASK, "mask = (1.0 - attention_mask[:, None, None, :]"
                                                    ".to(hidden_states.dtype)) * -10000.0"),)),
    Variant("V9d", FILE, "einops", (
        ("import torch\n", "import torch\nfrom einops import einsum\n"),
        (TOKEN, 'return einsum(hidden_state, self.word_embedding.weight, "... d, v d -> ... v")'))),
    Variant("V14d", FILE, "prints on the way", (
        (f"        {LOOP}", f"        print(attention_mask)\n        {LOOP}"),)),
    Variant("V15d", FILE, "one more argument with a default", (
        ("def forward(self, input_ids: Tensor, attention_mask: Tensor) ->",
         "def forward(self, input_ids: Tensor, attention_mask: Tensor, return_dict=True) ->"),)),
]
