"""What is asked of models/gpt2.py in the sandbox, where its layers are stubs. Knows no answers."""

import torch


def build(inputs, dropout=0.0, train=False):
    """Make the submission's model from inputs V, longest, C, layers, eps; inputs with dotted names are its weights."""
    from config import GPT2Config

    from models.gpt2 import GPT2Model

    torch.manual_seed(0)
    C = int(inputs["C"])
    model = GPT2Model(GPT2Config(
        vocab_size=int(inputs["V"]), max_position_embeddings=int(inputs["longest"]), hidden_size=C,
        num_hidden_layers=int(inputs["layers"]), num_attention_heads=4, intermediate_size=4 * C,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, layer_norm_eps=float(inputs["eps"])))
    with torch.no_grad():
        for name, value in inputs.items():
            if "." not in name:
                continue
            parameter = model.get_parameter(name)
            if parameter.shape != value.shape:  # copy_ would broadcast
                raise ValueError(f"{name} has the shape {list(parameter.shape)}, not {list(value.shape)}")
            parameter.copy_(torch.from_numpy(value))
    return model.train(train)


@torch.no_grad()
def embed(inputs):
    """Each input ids... [B, T] -> embedded... [B, T, C], in eval mode with a dropout that must not act."""
    model = build(inputs, dropout=0.5)
    return {name.replace("ids", "embedded"): model.embed(torch.from_numpy(ids)).numpy()
            for name, ids in inputs.items() if name.startswith("ids")}


@torch.no_grad()
def embed_dropout(inputs):
    """ids [B, T] -> none, half, all [B, T, C]: embeddings in train mode, with dropout 0, 0.5 and 1."""
    ids = torch.from_numpy(inputs["ids"])
    return {name: build(inputs, dropout, train=True).embed(ids).numpy()
            for name, dropout in (("none", 0.0), ("half", 0.5), ("all", 1.0))}


@torch.no_grad()
def encode(inputs):
    """hidden [B, T, C], mask [B, T] -> encoded [B, T, C]."""
    hidden, mask = torch.from_numpy(inputs["hidden"]), torch.from_numpy(inputs["mask"])
    return {"encoded": build(inputs).encode(hidden, mask).numpy()}


@torch.no_grad()
def forward(inputs):
    """ids, mask [B, T] -> embedded, last_hidden_state [B, T, C], last_token [B, C]."""
    model, ids = build(inputs), torch.from_numpy(inputs["ids"])
    outputs = model(ids, torch.from_numpy(inputs["mask"]))
    return {"embedded": model.embed(ids).numpy(), "last_hidden_state": outputs["last_hidden_state"].numpy(),
            "last_token": outputs["last_token"].numpy()}


@torch.no_grad()
def output_layer(inputs):
    """Each input hidden... [..., C] -> logits... [..., V]."""
    model = build(inputs)
    return {name.replace("hidden", "logits"): model.hidden_state_to_token(torch.from_numpy(hidden)).numpy()
            for name, hidden in inputs.items() if name.startswith("hidden")}


def gradients(inputs):
    """ids, mask [B, T], direction [B, T, C] -> for each weight, the gradient of sum(direction * last_hidden_state)."""
    model = build(inputs)
    outputs = model(torch.from_numpy(inputs["ids"]), torch.from_numpy(inputs["mask"]))
    (outputs["last_hidden_state"] * torch.from_numpy(inputs["direction"])).sum().backward()
    gradient = {name: model.get_parameter(name).grad for name in inputs if "." in name}
    return {name: value.numpy() for name, value in gradient.items() if value is not None}
