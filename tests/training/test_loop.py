"""The one loop: the gradient of a step, what an epoch counts, resuming anywhere, and what it never touches."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.batching import FeatureDataset, TextDataset, epoch_order, eval_order
from optimizer import AdamW
from tests.training.toy import Unmasked
from training.evaluate import predict
from training.loop import (
    Diverged,
    Feed,
    Outcome,
    TrainState,
    balanced_weights,
    classification,
    fit,
    parts,
    weighted_classification,
)
from training.machine import Machine
from training.parallel.process_group import Group

V, C, LABELS = 20, 8, 3


class Bag(nn.Module):
    """Mean of token embeddings, dropout, a linear layer: the smallest thing that looks like the classifier."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(V, C)
        self.dropout = nn.Dropout(p)
        self.head = nn.Linear(C, LABELS)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].to(self.head.weight.dtype)  # [B, T, 1]
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(mean))


class Recorder(torch.optim.SGD):
    """SGD that keeps a copy of the gradients each step was taken on."""

    def step(self, closure=None):
        self.seen = [*getattr(self, "seen", []), [p.grad.clone() for p in self.param_groups[0]["params"]]]
        return super().step(closure)


def bag(p=0.0, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return Bag(p).to(dtype)


def texts(count=11, seed=1):
    """Random texts of 1 to 6 tokens with random labels."""
    random = torch.Generator().manual_seed(seed)
    ids = [torch.randint(V, (int(torch.randint(1, 7, (), generator=random)),), generator=random).tolist()
           for _ in range(count)]
    return TextDataset(ids, torch.randint(LABELS, (count,), generator=random), pad_id=0)


def feed(data, batch_size=4, seed=3):
    return Feed(lambda epoch: epoch_order(data.lengths, batch_size, seed, epoch), data.collate)


def exactly(model, batch):
    """`classification` without its rounding of the logits to float32."""
    return Outcome(F.cross_entropy(model(*batch.inputs), batch.labels), torch.tensor(0))


def exact_gradient(model, data, rows):
    """The gradient of the mean loss over rows, each row a batch of its own, summed by hand in float64."""
    model = copy.deepcopy(model).double().train()
    model.zero_grad()
    for row in rows:
        batch = data.collate([row])
        logits = model(*batch.inputs)[0]
        loss = logits.exp().sum().log() - logits[batch.labels[0]]
        (loss / len(rows)).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("accumulate", range(1, 9))
@pytest.mark.parametrize("batch_size", [1, 3, 7, 11])
def test_a_step_takes_the_gradient_of_its_batch_mean(batch_size, accumulate):
    """Catches the course's loss / batch_size on a short last batch, parts averaged as if of equal size, sums
    for means, gradients left over from the step before or from before the loop.
    """
    model, data = bag(dtype=torch.float64), texts()
    optimizer = Recorder(model.parameters(), lr=0.1)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    order = epoch_order(data.lengths, batch_size, 3, 0)
    models = []
    fit(model, optimizer, feed(data, batch_size), exactly, TrainState(), Machine(), epochs=1, accumulate=accumulate,
        after_step=lambda: models.append(copy.deepcopy(model)))
    before = [bag(dtype=torch.float64), *models[:-1]]
    assert len(optimizer.seen) == len(order)
    for rows, start, seen in zip(order, before, optimizer.seen, strict=True):
        for ours, exact in zip(seen, exact_gradient(start, data, rows), strict=True):
            # float64 keeps sixteen digits; the sums here are short.
            torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_float32_gradient_is_near_the_exact_one(accumulate):
    """Catches an objective whose gradient is another one; float32 rounding allows about 1e-7 here."""
    model, data = bag(), texts()
    optimizer = Recorder(model.parameters(), lr=0.0)
    fit(model, optimizer, feed(data, 11), classification, TrainState(), Machine(), epochs=1, accumulate=accumulate)
    for ours, exact in zip(optimizer.seen[0], exact_gradient(model, data, range(11)), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("rows", range(1, 9))
def test_parts_are_all_rows_in_order(rows, count):
    """Catches empty parts (a forward pass on nothing), lost rows, and more parts than asked for."""
    cut = list(parts(list(range(rows)), count))
    assert [row for part in cut for row in part] == list(range(rows))
    assert all(cut) and len(cut) <= count
    assert max(map(len, cut)) == math.ceil(rows / count)


def test_processes_that_share_a_batch_average_to_the_same_gradient():
    """Catches a mean over each process's own rows, which is wrong when their shares differ in size."""
    data, world = texts(), 3
    gradients = []
    for rank in range(world):
        optimizer = Recorder((model := bag(dtype=torch.float64)).parameters(), lr=0.0)
        fit(model, optimizer, feed(data, 11), exactly, TrainState(),
            Machine(group=Group(rank, world)), epochs=1)
        gradients.append(optimizer.seen[0])
    rows = epoch_order(data.lengths, 11, 3, 0)[0]
    for *ours, exact in zip(*gradients, exact_gradient(bag(), data, rows), strict=True):
        torch.testing.assert_close(sum(ours) / world, exact, rtol=1e-10, atol=1e-14)


def test_epoch_sums_are_means_over_examples():
    """Catches a mean over batches (a short batch would count too much) and an accuracy of the last batch alone."""
    model, data, seen = bag(), texts(11), []
    state = TrainState()
    fit(model, torch.optim.SGD(model.parameters(), lr=0.0), feed(data, 4), classification, state, Machine(), epochs=2,
        accumulate=2, after_epoch=lambda: seen.append(replace(state)))
    batch = data.collate(range(11))
    with torch.no_grad():
        logits = model(*batch.inputs)
    for epoch, at_end in enumerate(seen):
        assert at_end.loss == pytest.approx(float(F.cross_entropy(logits, batch.labels)), rel=1e-6)
        assert at_end.accuracy == float((logits.argmax(1) == batch.labels).double().mean())
        assert (at_end.epoch, at_end.batch, at_end.step, at_end.rows) == (epoch + 1, 0, 3 * (epoch + 1), 11)


def test_hooks_and_scheduler_run_once_a_step_and_once_an_epoch():
    """Catches a scheduler stepped once a part or once an epoch, and hooks that see the state too early."""
    model, data, state, calls = bag(), texts(11), TrainState(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    fit(model, optimizer, feed(data, 4), classification, state, Machine(), epochs=2, scheduler=scheduler, accumulate=3,
        after_step=lambda: calls.append(("step", state.step, state.epoch, state.batch, scheduler.last_epoch)),
        after_epoch=lambda: calls.append(("epoch", state.step, state.epoch, state.batch, scheduler.last_epoch)))
    assert calls == [
        ("step", 1, 0, 1, 1), ("step", 2, 0, 2, 2), ("step", 3, 0, 3, 3), ("epoch", 3, 1, 0, 3),
        ("step", 4, 1, 1, 4), ("step", 5, 1, 2, 5), ("step", 6, 1, 3, 6), ("epoch", 6, 2, 0, 6)]
    assert scheduler.get_last_lr() == [1 / 7]


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients]).norm().item()


def test_clipping_scales_the_whole_gradient():
    """Catches clipping by value or tensor by tensor, clipping of parts, and clipping of what is small enough."""
    data = texts()
    optimizer = Recorder((model := bag()).parameters(), lr=0.0)
    fit(model, optimizer, feed(data, 11), classification, TrainState(), Machine(), epochs=1)
    free = optimizer.seen[0]
    for limit, expected in ((norm(free) / 3, norm(free) / 3), (norm(free) * 3, norm(free))):
        optimizer = Recorder((model := bag()).parameters(), lr=0.0)
        fit(model, optimizer, feed(data, 11), classification, TrainState(), Machine(), epochs=1, accumulate=4,
            max_grad_norm=limit)
        assert norm(optimizer.seen[0]) == pytest.approx(expected, rel=1e-5)
        for clipped, gradient in zip(optimizer.seen[0], free, strict=True):
            torch.testing.assert_close(clipped, gradient * (expected / norm(free)), rtol=1e-4, atol=1e-7)


@dataclass
class Run:
    """Everything a checkpoint has to hold, and what the run has reported so far."""

    model: nn.Module
    optimizer: AdamW
    scheduler: torch.optim.lr_scheduler.LambdaLR
    state: TrainState
    reports: list

    @classmethod
    def fresh(cls):
        model = bag(p=0.4, seed=7)
        optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
        return cls(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
                   TrainState(), [])

    def saved(self):
        """A copy, in memory, of what a checkpoint holds."""
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict(),
                              self.state, self.reports, torch.get_rng_state()))

    @classmethod
    def restored(cls, saved):
        run = cls.fresh()
        model, optimizer, scheduler, state, reports, rng = copy.deepcopy(saved)
        run.model.load_state_dict(model)
        run.optimizer.load_state_dict(optimizer)
        run.scheduler.load_state_dict(scheduler)
        run.state, run.reports = state, reports
        torch.set_rng_state(rng)
        return run

    def go(self, save=lambda saved: None):
        def after_epoch():
            self.reports.append((self.state.epoch, self.state.step, self.state.loss, self.state.accuracy))
            save(self.saved())

        fit(self.model, self.optimizer, feed(texts()), classification, self.state, Machine(), epochs=3, accumulate=2,
            scheduler=self.scheduler, max_grad_norm=1.0, after_step=lambda: save(self.saved()),
            after_epoch=after_epoch)
        return self


def test_resuming_anywhere_ends_with_the_same_bits():
    """Catches, at each of the 3 x (3 + 1) moments when a run can be saved: a batch done twice or left out, a
    schedule or dropout stream that starts anew, and loss sums that carry an epoch over into the next.
    """
    saves = []
    torch.manual_seed(5)
    whole = Run.fresh().go(saves.append)
    assert len(saves) == 12 and len(whole.reports) == 3
    for saved in saves:
        resumed = Run.restored(saved).go()
        assert resumed.reports == whole.reports
        assert replace(resumed.state) == whole.state
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_finished_run_does_nothing_more():
    """Catches a loop that trains one epoch too many when a finished run is resumed."""
    model, data = bag(), texts()
    before = copy.deepcopy(model.state_dict())
    fit(model, AdamW(model.parameters()), feed(data), classification, TrainState(epoch=2, step=6), Machine(), epochs=2,
        after_epoch=lambda: pytest.fail("no epoch is left"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_caught_before_the_weights(bad, value):
    """Catches NaN or infinity written into the weights or the optimizer's means, and a message that does not
    say where: the third step of three, on the examples with these ids.
    """
    model, data, state = bag(), texts(11), TrainState()
    optimizer = AdamW(model.parameters(), lr=0.01)
    order = epoch_order(data.lengths, 4, 3, 0)

    def objective(model, batch):
        outcome = classification(model, batch)
        if batch.index.tolist()[0] != order[2][0]:
            return outcome
        if bad == "loss":
            return outcome._replace(loss=outcome.loss * value)
        outcome.loss.register_hook(lambda gradient: gradient * value)
        return outcome

    saves = []
    names = [f"id{row}" for row in range(11)]
    with pytest.raises(Diverged) as caught:
        fit(model, optimizer, Feed(lambda epoch: order, data.collate, lambda rows: [names[row] for row in rows]),
            objective, state, Machine(), epochs=1, after_step=lambda: saves.append(copy.deepcopy(model.state_dict())))
    assert state.step == 2 and len(saves) == 2
    assert all(torch.equal(saves[-1][name], tensor) for name, tensor in model.state_dict().items())
    assert all(s["step"] == 2 and s["exp_avg"].isfinite().all() for s in optimizer.state.values())
    message = str(caught.value)
    assert "step 3" in message and all(names[row] in message for row in order[2])
    assert ("the loss became" if bad == "loss" else "the gradient's norm became") in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_diverge_end_the_run_at_the_step(value):
    """Catches a step into NaN or infinity that is counted, saved and evaluated since no later loss shows it: here it
    is the last one.
    """
    model, data, state = bag(), texts(4), TrainState()

    class Jump(torch.optim.SGD):
        def step(self):
            super().step()
            self.param_groups[0]["params"][1].detach()[0, 0] = value

    calls = []
    with pytest.raises(Diverged, match=r"the weights' norm became (nan|inf) at step 1 \(examples row \d, row \d, "):
        fit(model, Jump(model.parameters(), lr=0.1), feed(data, 4), classification, state, Machine(), epochs=1,
            after_step=lambda: calls.append("step"), after_epoch=lambda: calls.append("epoch"))
    assert calls == [] and state.step == 0


def test_a_learning_rate_beyond_float32_is_found_in_the_only_step():
    """Catches exit status 0 and 36 tensors of NaN kept as the best weights."""
    model, data = bag(), texts(4)
    with pytest.raises(Diverged, match="the weights' norm became"):
        fit(model, AdamW(model.parameters(), lr=1e39), feed(data, 4), classification, TrainState(), Machine(), epochs=1)


def test_a_long_list_of_examples_is_shortened():
    """Catches an error message with every id of a large batch in it."""
    model, data = bag(), texts(20)
    with torch.no_grad():
        model.head.bias[0] = math.nan
    with pytest.raises(Diverged, match=r"row .* and 12 more"):
        fit(model, AdamW(model.parameters()), feed(data, 20), classification, TrainState(), Machine(), epochs=1)


def test_ordering_and_evaluating_draw_no_random_numbers():
    """Catches an evaluation in train mode or an order from the global generator: how often one evaluates would
    then change training.
    """
    data, weights = texts(), []
    for evaluate in (False, True):
        model = bag(p=0.4)
        torch.manual_seed(9)

        def look(model=model, evaluate=evaluate):
            if evaluate:
                predict(model, eval_order(data.lengths, 2), data.collate, Machine())

        fit(model, AdamW(model.parameters(), lr=0.05), feed(data), classification, TrainState(), Machine(), epochs=3,
            after_epoch=look)
        weights.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_frozen_parameters_stay_as_they_are():
    """Catches a loop that needs every parameter's gradient, or hands frozen ones to the optimizer's decay."""
    model, data = bag(), texts()
    model.embedding.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    fit(model, optimizer, feed(data), classification, TrainState(), Machine(), epochs=2, max_grad_norm=1.0)
    assert torch.equal(model.embedding.weight, before["embedding.weight"]) and model.embedding.weight.grad is None
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    """Catches dropout that stays off after an evaluation or a load."""
    model, data, modes = bag(p=0.5).eval(), texts(), []

    def objective(model, batch):
        modes.append(model.dropout.training)
        return classification(model, batch)

    fit(model, AdamW(model.parameters()), feed(data), objective, TrainState(), Machine(), epochs=1)
    assert modes == [True] * 3


def test_it_learns_eight_texts_by_heart():
    """Catches whatever keeps the loop from learning at all: gradients dropped, steps without effect, wrong labels."""
    data = texts(8)
    model, state, losses = bag(), TrainState(), []
    fit(model, AdamW(model.parameters(), lr=0.05), feed(data, 3), classification, state, Machine(), epochs=40,
        after_epoch=lambda: losses.append((state.loss, state.accuracy)))
    assert losses[-1][0] < 0.1 and losses[-1][1] == 1.0
    assert losses[0][0] > 0.9


def test_it_trains_a_head_on_features():
    """Catches a loop that knows of token ids and masks: the same fit must train a head on stored vectors."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 2
    data = FeatureDataset(torch.randn(30, C, generator=random) + 3 * labels[:, None], labels)
    torch.manual_seed(0)
    head, state, seen = Unmasked(nn.Linear(C, 2)), TrainState(), []
    fit(head, AdamW(head.parameters(), lr=0.05), feed(data, 8), classification, state, Machine(), epochs=10,
        after_epoch=lambda: seen.append(state.accuracy))
    assert seen[-1] > 0.95


def test_it_trains_a_language_model():
    """Catches a loop that knows of labels: the same fit must learn which token follows which."""

    @dataclass
    class Tokens:
        ids: torch.Tensor

        def __len__(self):
            return len(self.ids)

        def to(self, device):
            return Tokens(self.ids.to(device))

    def objective(model, batch):
        logits = model(batch.ids[:, :-1])
        return Outcome(F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten()), torch.tensor(0))

    ids = torch.stack([torch.arange(start, start + 10) % V for start in range(V)])
    torch.manual_seed(0)
    model, state, losses = nn.Sequential(nn.Embedding(V, C), nn.Linear(C, V)), TrainState(), []
    order = Feed(lambda epoch: epoch_order([1] * V, 6, 0, epoch), lambda rows: Tokens(ids[rows]))
    fit(model, AdamW(model.parameters(), lr=0.05), order, objective, state, Machine(), epochs=30,
        after_epoch=lambda: losses.append(state.loss))
    assert losses[0] > 2 and losses[-1] < 0.1 and state.correct == 0


def test_balanced_weights_by_hand():
    """Catches: weights of scikit-learn's rule with a label that does not occur, which would be infinite."""
    assert balanced_weights([0, 0, 0, 1], 2).tolist() == pytest.approx([4 / 6, 2.0])
    assert balanced_weights([0, 0, 2, 2, 2, 2], 3).tolist() == pytest.approx([1.5, 0.0, 0.75])
    labels = [0] * 90 + [1] * 8 + [2] * 2
    weights = balanced_weights(labels, 3)
    assert float(weights[torch.tensor(labels)].mean()) == pytest.approx(1.0)
    parts_of_loss = [float(weights[label]) * labels.count(label) for label in range(3)]
    assert parts_of_loss == pytest.approx([100 / 3] * 3)


class Given(nn.Module):
    """Logits are the features."""

    def forward(self, features, mask):
        return features


def test_a_weighted_loss_by_hand_and_in_parts():
    """Catches: PyTorch's mean over weights, with which a batch in two parts is another step than in one."""
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), [0, 1, 2, 0, 0, 1], torch.tensor([0.5, 2.0, 3.0])
    data, objective = FeatureDataset(logits, labels), weighted_classification(weights)
    loss, correct = objective(Given(), data.collate(range(6)))
    log_softmax = logits.double().log_softmax(1)
    by_hand = [-float(weights[label] * log_softmax[row, label]) for row, label in enumerate(labels)]
    assert float(loss) == pytest.approx(sum(by_hand) / 6, rel=1e-5)
    halves = [float(objective(Given(), data.collate(rows)).loss) for rows in ([0, 1, 2], [3, 4, 5])]
    assert float(loss) == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert int(correct) == int(classification(Given(), data.collate(range(6))).correct)
    even = weighted_classification(torch.ones(3))(Given(), data.collate(range(6)))
    assert float(even.loss) == pytest.approx(float(classification(Given(), data.collate(range(6))).loss), rel=1e-6)
