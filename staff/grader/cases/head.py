"""Graded tests of classifier.py's GPT2SentimentClassifier. GPT-2 is a stub, and so are optimizers and data.

A head may have any layers and names; so most tests ask how its logits behave, not what they are. All but `sizes` use
the course's hidden size of 768 and 5 labels: a head with these numbers written into it fails that one test alone.
"""

import numpy as np

from staff.grader.case import Arrays, Request, Wrong, case, numbers

VOCABULARY, POSITIONS = 32, 8
"The stub's, in stubs/head/models/gpt2.py."
SAME = 1e-5
"Logits are a few units large. Two calls on equal vectors differ by rounding alone, about 1e-6."


def example(rng, B=8, T=6, C=768, labels=5, **more) -> dict:
    """Return sizes, and B texts that end in different tokens, padded on the right; the first is as long as the mask."""
    lengths = np.concatenate([[T, 1], rng.integers(2, T, size=B - 2)])
    ids = rng.integers(VOCABULARY, size=(B, T))
    ids[np.arange(B), lengths - 1] = rng.permutation(VOCABULARY)[:B]
    return {"C": C, "labels": labels, "seed": int(rng.integers(2**31)), "ids": ids,
            "mask": (np.arange(T) < lengths[:, None]).astype(np.int64)} | more


def check_logits(name: str, got: Arrays, B: int, labels: int) -> np.ndarray:
    """Return got[name] [B, labels]; raise Wrong where these are no logits, but already probabilities."""
    logits = numbers(name, got, (B, labels))
    with np.errstate(over="ignore"):
        sums = logits.sum(axis=1), np.exp(logits).sum(axis=1)
    for what, total in zip(("probabilities (softmax)", "logarithms of probabilities (log_softmax)"), sums, strict=True):
        if np.all(np.abs(total - 1) < 1e-4):
            raise Wrong(f"{name} are {what}; cross_entropy wants logits, which are not normalised")
    if logits.min() >= 0 and logits.max() <= 1:
        raise Wrong(f"{name} all lie between 0 and 1; cross_entropy wants logits, which are not normalised")
    return logits


@case
def logits(rng):
    """Logits [B, num_labels], not normalised"""
    inputs = example(rng, B=24)
    got = yield Request("head.logits", inputs)
    check_logits("logits", got, 24, inputs["labels"])


@case
def sizes(rng):
    """hidden_size and num_labels are the configuration's"""
    inputs = example(rng, C=40, labels=2)
    got = yield Request("head.logits", inputs)
    numbers("logits", got, (8, 2))


@case
def last_token(rng):
    """The logits depend on last_token, and on nothing else"""
    inputs = example(rng)
    rows, last = np.arange(8), inputs["mask"].sum(axis=1) - 1
    inputs["others_change"] = (inputs["ids"] + rng.integers(1, VOCABULARY, size=inputs["ids"].shape)) % VOCABULARY
    inputs["others_last"] = inputs["ids"].copy()
    inputs["others_last"][rows, last] = inputs["others_change"][rows, last]
    inputs["others_change"][rows, last] = inputs["ids"][rows, last]

    got = yield Request("head.logits", inputs)
    logits = numbers("logits", got, (8, inputs["labels"]))
    moved = np.abs(numbers("logits_others_change", got, logits.shape) - logits).max(axis=1)
    if moved.max() > SAME:
        raise Wrong(f"row {moved.argmax()}: its logits change by {moved.max():.2g} when other tokens than the last one "
                    "change; the head is to read last_token")
    moved = np.abs(numbers("logits_others_last", got, logits.shape) - logits).max(axis=1)
    if moved.min() <= SAME:
        raise Wrong(f"row {moved.argmin()}: its logits stay the same when its last token changes")


@case
def evaluation(rng):
    """In eval mode a text always gets the same logits"""
    inputs = example(rng)
    got = yield Request("head.twice", inputs)
    for mode, words in (("frozen", "last-linear-layer"), ("full", "full-model")):
        first = numbers(f"{mode}_first", got, (8, inputs["labels"]))
        for again, what in (("second", "a second call"), ("backwards", "the same rows in another order")):
            moved = np.abs(numbers(f"{mode}_{again}", got, first.shape) - first).max()
            if moved > SAME:
                raise Wrong(f"{words}, eval mode: the logits of {what} differ by {moved:.2g}")


@case
def dropout(rng):
    """Dropout, if there is any, comes before the last layer, with hidden_dropout_prob"""
    inputs = example(rng)
    got = yield Request("head.dropout", inputs)
    kept = numbers("eval", got, (8, inputs["labels"]))
    moved = np.abs(numbers("none", got, kept.shape) - kept).max()
    if moved > SAME:
        raise Wrong(f"with hidden_dropout_prob 0 the logits in train mode and in eval mode differ by {moved:.2g}: "
                    "a dropout has another probability")

    # With everything dropped, what is left is a bias: the same for every row. A head without dropout is right, too.
    everything = numbers("all", got, kept.shape)
    if np.abs(everything - kept).max() <= SAME:
        return "the head has no dropout, which is accepted"
    if numbers("biases", got, ()) and np.all(everything == 0):
        raise Wrong("with hidden_dropout_prob 1 all logits are 0: dropout is applied to the logits; it belongs before "
                    "the last layer, whose bias stays")
    if np.abs(everything - everything[0]).max() > SAME:
        raise Wrong("with hidden_dropout_prob 1 the logits still depend on the text: dropout has another probability")


@case
def frozen(rng):
    """last-linear-layer: a step with weight decay changes the head, and no weight of GPT-2"""
    inputs = example(rng, mode="last-linear-layer", decay=0.1)
    inputs["right"] = rng.integers(inputs["labels"], size=8)
    got = yield Request("head.step", inputs)
    for name in (name for name in sorted(got) if name.startswith("gpt.")):
        if numbers(name, got, ()) != 0:
            raise Wrong(f"GPT-2's {name.removeprefix('gpt.')} changed by {got[name]:.2g}; it is to be frozen")
    check_head_moves(got)


@case
def full_model(rng):
    """full-model: a step changes every weight of GPT-2, and the head"""
    inputs = example(rng, T=POSITIONS, mode="full-model", decay=0.0)
    inputs["right"] = rng.integers(inputs["labels"], size=8)
    got = yield Request("head.step", inputs)
    names = ("word_embedding.weight", "pos_embedding.weight", "gpt_layers.0.weight", "gpt_layers.1.weight",
             "final_layer_norm.weight", "final_layer_norm.bias")
    still = [name for name in names if not numbers(f"gpt.{name}", got, ()) > 0]
    if still:
        raise Wrong(f"GPT-2's {', '.join(still)} did not change: is requires_grad False, or is there a no_grad?")
    check_head_moves(got)


def check_head_moves(got: Arrays) -> None:
    """Raise Wrong unless a step changes at least one weight of the head."""
    head = [numbers(name, got, ()) for name in sorted(got) if name.startswith("head.")]
    if not head:
        raise Wrong("the classifier's parameters() are GPT-2's alone: make the head a module, in __init__")
    if not max(head) > 0:
        raise Wrong("no weight of the head changed: is it frozen, too?")


@case
def overfit(rng):
    """The head learns eight texts by heart"""
    inputs = example(rng, lr=2e-3, steps=40)
    inputs["right"] = rng.integers(inputs["labels"], size=8)
    got = yield Request("head.overfit", inputs)
    logits = numbers("logits", got, (8, inputs["labels"]))
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(8), inputs["right"]]).mean()
    if not loss < 0.1:
        raise Wrong(f"after {inputs['steps']} steps of training on 8 texts the loss is {loss:.3g}, not below 0.1")
