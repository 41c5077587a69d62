"""What is asked of classifier.py in the sandbox, where GPT-2 is a stub. Knows no answers."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def build(inputs, mode, dropout=0.0, gpt_dropout=0.0):
    """Make the submission's classifier from inputs C, labels, seed; return it, its stub GPT-2, and its own weights."""
    from models import gpt2

    stub = gpt2.GPT2Model
    torch.manual_seed(int(inputs["seed"]))
    stub.hidden_size, stub.dropout = int(inputs["C"]), gpt_dropout
    from classifier import GPT2SentimentClassifier

    model = GPT2SentimentClassifier(SimpleNamespace(
        num_labels=int(inputs["labels"]), hidden_size=int(inputs["C"]), hidden_dropout_prob=dropout,
        fine_tune_mode=mode, data_dir="."))
    inside = [module for module in model.modules() if isinstance(module, stub)]
    if not inside and not stub.made:
        raise ValueError("the classifier makes no GPT2Model")
    gpt = inside[0] if inside else stub.made[-1]  # it may be hidden in a list
    theirs = {id(parameter) for parameter in gpt.parameters()}
    return model, gpt, [parameter for parameter in model.parameters() if id(parameter) not in theirs]


def randomise(inputs, weights):
    """Draw a head's weights, so that no number of it is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(int(inputs["seed"]))
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 2 * weight.shape[-1] ** -0.5)


def batches(inputs):
    """Return ids and mask [B, T] as tensors."""
    return torch.from_numpy(inputs["ids"]), torch.from_numpy(inputs["mask"])


@torch.no_grad()
def logits(inputs):
    """ids, mask, and others... [B, T] instead of ids -> logits, logits_others... [B, labels], in eval mode."""
    model, _, head = build(inputs, "full-model")
    randomise(inputs, head)
    model.eval()
    ids, mask = batches(inputs)
    outputs = {"logits": model(ids, mask).numpy()}
    for name in inputs:
        if name.startswith("others"):
            outputs[f"logits_{name}"] = model(torch.from_numpy(inputs[name]), mask).numpy()
    return outputs


@torch.no_grad()
def twice(inputs):
    """ids, mask [B, T] -> frozen..., full... [B, labels]: two calls in eval mode, and one on the rows backwards."""
    outputs = {}
    for name, mode in (("frozen", "last-linear-layer"), ("full", "full-model")):
        model, _, head = build(inputs, mode, dropout=0.3, gpt_dropout=0.3)
        randomise(inputs, head)
        model.train()
        model.eval()
        ids, mask = batches(inputs)
        outputs[f"{name}_first"], outputs[f"{name}_second"] = model(ids, mask).numpy(), model(ids, mask).numpy()
        outputs[f"{name}_backwards"] = model(ids.flip(0), mask.flip(0)).flip(0).numpy()
    return outputs


@torch.no_grad()
def dropout(inputs):
    """ids, mask [B, T] -> none, eval, all [B, labels]: dropout 0 in train mode and in eval mode, 1 in train mode.

    biases: how many of the head's weights have the shape of its last layer's bias.
    """
    outputs = {}
    for name, probability in (("none", 0.0), ("all", 1.0)):
        model, _, head = build(inputs, "last-linear-layer", dropout=probability)
        randomise(inputs, head)
        outputs[name] = model.train()(*batches(inputs)).numpy()
        outputs.setdefault("eval", model.eval()(*batches(inputs)).numpy())
    outputs["biases"] = sum(weight.shape == (int(inputs["labels"]),) for weight in head)
    return outputs


def step(inputs):
    """Train for one step in inputs mode, with inputs decay: how far each weight moves, of GPT-2 and of the head."""
    model, gpt, head = build(inputs, str(inputs["mode"]))
    weights = {f"gpt.{name}": weight for name, weight in gpt.named_parameters()}
    weights |= {f"head.{i}": weight for i, weight in enumerate(head)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}

    loss = F.cross_entropy(model.train()(*batches(inputs)), torch.from_numpy(inputs["right"]))
    if loss.requires_grad:
        loss.backward()
    with torch.no_grad():  # not torch.optim, whose first step imports torch._dynamo: that takes seconds
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= weight.grad + float(inputs["decay"]) * weight
    return {name: (weight.detach() - before[name]).abs().max().numpy() for name, weight in weights.items()}


def overfit(inputs):
    """Train the head on ids, mask [B, T] with the labels inputs right [B] -> logits [B, labels] afterwards."""
    model, _, _ = build(inputs, "last-linear-layer")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise ValueError("no weight requires a gradient in the mode last-linear-layer")
    (ids, mask), right, steps = batches(inputs), torch.from_numpy(inputs["right"]), int(inputs["steps"])
    for i in range(steps):
        loss = F.cross_entropy(model.train()(ids, mask), right)
        for weight, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
            if gradient is not None:
                weight.data -= float(inputs["lr"]) * (1 - i / steps) * gradient.sign()
    with torch.no_grad():
        return {"logits": model.eval()(ids, mask).numpy()}
