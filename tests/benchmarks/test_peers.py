"""The contenders do the same work: what is timed side by side must lead to the same place."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks import pretraining, rows
from benchmarks.adamw import OPTIMIZERS, OPTIONS, parameters
from benchmarks.course import Course
from benchmarks.huggingface import GroupedByLength, HuggingFace
from benchmarks.ours import Growth, Ours, TinyOnSample
from benchmarks.results import Result
from benchmarks.rows import GROUPED, USUAL, best_precisions, speed_note
from benchmarks.workload import Plan, Workload
from engine.adamw import FastAdamW
from engine.gpt2 import FastGPT2
from models.config import GPT2Config
from models.pretrained import save_pretrained

SHAPE = GPT2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=128,
                   hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture
def work() -> Workload:
    return Workload("sst-sample", shape=SHAPE, texts=24)


def test_the_course_trains_to_the_same_loss(work: Workload) -> None:
    """Would catch a wrong mask, position, loss or update on either side: dropout off, the same batches."""
    ours, course = Ours(work), Course(work)
    ours.model.classifier.head[0].p = course.model.head[0].p = 0.0
    for p in ours.model.classifier.parameters():
        p.data.mul_(3)  # away from the uniform guess, where a wrong model loses as much as a right one
    course.model.load_state_dict(ours.model.classifier.state_dict())
    for optimizer in (ours.optimizer, course.optimizer):
        optimizer.param_groups[0]["lr"] = 3e-3
    batches = course.training_order()
    losses = [(ours.train(*batches), course.train(*batches)) for _ in range(8)]
    assert losses[-1][0] < losses[0][0] / 2
    for mine, theirs in losses:
        assert mine == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(ours.evaluate(), course.evaluate(), atol=1e-3, rtol=0)


def test_the_course_freezes_its_backbone(work: Workload) -> None:
    """Would catch a frozen row in which the course does the work of full training."""
    course = Course(replace(work, mode="last-linear-layer"))
    before = {name: p.clone() for name, p in course.model.named_parameters()}
    course.train(*course.training_order()[:2])
    changed = {name for name, p in course.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"head.1.weight", "head.1.bias"}


def test_hugging_face_sees_the_same_texts_in_both_orders(work: Workload) -> None:
    """Would catch logits put back in the wrong order, or an epoch that misses or repeats texts."""
    plain, grouped = HuggingFace(work), GroupedByLength(work)
    torch.testing.assert_close(grouped.evaluate(), plain.evaluate(), atol=1e-5, rtol=0)
    for peer in (plain, grouped):
        assert sorted(row for rows in peer.training_order() for row in rows) == list(range(24))


@pytest.mark.parametrize("peer", [HuggingFace, GroupedByLength])
def test_hugging_face_learns(peer: type[HuggingFace], work: Workload) -> None:
    """Would catch a loop that times steps but takes none."""
    contender = peer(work)
    contender.optimizer.param_groups[0]["lr"] = 3e-3
    losses = [contender.train(*contender.training_order()) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.1


def test_useful_work_is_that_of_the_model(work: Workload) -> None:
    """Would catch a rate of operations that is off by a factor: PyTorch counts them for a batch without padding."""
    from torch.utils.flop_counter import FlopCounterMode

    course = Course(work)
    course.data.lengths, ids = [11] * 24, torch.zeros(8, 11, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        course.model(ids, torch.ones_like(ids)).sum().backward()
    head = 3 * 2 * 8 * 32 * 5
    assert course.useful_flops([range(8)]) == pytest.approx(counter.get_total_flops() - head, rel=0.01)


def test_the_engine_serves_ours(work: Workload) -> None:
    """Would catch targets of the engine's that are held against the definition, and passes that skip the engine."""
    ours = Ours(work)
    assert isinstance(ours.optimizer, FastAdamW) and isinstance(ours.model.gpt.forward.__self__, FastGPT2)


def test_gpt2_tiny_learns_in_any_order() -> None:
    """Would catch an error that is an accuracy, and a comparison of two equal orders."""
    tiny = TinyOnSample()
    assert tiny.error(0, True, epochs=0) > 0.6  # untrained head, five labels
    errors = [tiny.error(1, bucket, epochs=2) for bucket in (True, False)]
    assert max(errors) < 0.6 and errors[0] != errors[1]


def test_all_optimizers_take_the_same_steps() -> None:
    """Would catch other options for one contender: with hardly any eps, PyTorch's rule gives what ours does."""
    params = {}
    for name, make in OPTIMIZERS.items():
        params[name] = parameters(SHAPE)
        optimizer = make(params[name], **OPTIONS | {"lr": 1e-3, "eps": 1e-15})
        for _ in range(3):
            optimizer.step()
    for theirs in params.values():
        torch.testing.assert_close(theirs, params["ours"], rtol=0, atol=1e-6)


def test_growth_is_timed_at_any_size() -> None:
    """Would catch a size that the loop is not given."""
    growth = Growth()
    small, large = (growth.epoch(**USUAL | {"texts": texts, "width": 64}) for texts in (8, 64))
    assert 0 < small < large


def test_ours_takes_the_sizes_of_an_epoch(work: Workload) -> None:
    """Would catch features that are not stored: a second run must not need the backbone."""
    ours = Ours(replace(work, mode="last-linear-layer"))
    ours.head_epoch(train_texts=20, dev_texts=5)
    texts = []
    ours.model.gpt.register_forward_hook(lambda module, inputs, output: texts.append(len(inputs[0])))
    ours.features_twice()
    assert sum(texts) == 24  # the first time only


def test_the_chip_at_its_best(work: Workload) -> None:
    """Would catch a figure in the wrong unit, or one that times nothing, so that it grows with the size."""
    peer = Ours(work)
    small, large = peer.best_flops(256), peer.best_flops(1024)
    assert 1e7 < small < 1e15 and small / 100 < large < 100 * small
    assert speed_note(2.4e11, None) == "240 GFLOP/s without padding"
    assert speed_note(2.4e11, 9.6e11) == "240 GFLOP/s without padding, 25% of what a large product reaches"


def test_both_pretrain_the_same_model(work: Workload, tmp_path: Path) -> None:
    """Would catch blocks, targets, clipping or a precision that only one has, and a loop that takes no steps."""
    work = replace(work, task="cfimdb-sample")
    ours, plain = pretraining.Ours(work), pretraining.Plain(work)
    save_pretrained(ours.model.gpt, tmp_path, tokenizer_file=rows.TINY / "tokenizer.json")
    plain.model.load_state_dict(transformers.GPT2LMHeadModel.from_pretrained(tmp_path).state_dict())
    batches = ours.batches(30)
    assert batches == plain.batches(30) and ours.tokens(batches[:1]) == 2048
    losses = [(ours.train(batch), plain.train(batch)) for batch in batches]
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-5) and losses[-1][0] < losses[0][0] - 1
    for mine, theirs in losses:  # they decay other weights, and their eps differ
        assert mine == pytest.approx(theirs, rel=0.02)


def test_each_side_takes_its_best_precision() -> None:
    """Would catch the slower one, one that the other side chose, and a comparison across rounds."""
    results = [Result("training, sst", name, costs, "s/example") for name, costs in {
        "ours": (2.0, 1.9), "ours, bfloat16": (1.0, 1.1), "Hugging Face": (0.5, 0.5), GROUPED: (1.5, 1.6),
        f"{GROUPED}, bfloat16": (1.7, 1.8)}.items()]
    mine, theirs = best_precisions(results)
    assert (mine.row, mine.contender, mine.costs, mine.note) == (
        "training, sst, best precision", "ours", (1.0, 1.1), "bfloat16")
    assert (theirs.contender, theirs.costs, theirs.note) == (GROUPED, (1.5, 1.6), "float32")
    only = [result for result in results if not result.contender.endswith("bfloat16")]
    assert {found.note for found in best_precisions(only)} == {
        "float32: this processor does not multiply bfloat16"}


@pytest.mark.slow
@pytest.mark.parametrize("row, contenders", [
    ("quick", {"quick run, first batch": {"ours", "import torch"}, "quick run, whole": {"ours"}}),
    ("serving", {"one sentence, gpt2-tiny": {"ours"}, "1,000 sentences, gpt2-tiny": {"ours"}}),
    ("pretraining", {"pretraining, toy": {"ours", "plain loop"}}),
    ("evaluation", {f"evaluation, {task}": {"ours", "Hugging Face", GROUPED} for task in ("sst", "cfimdb")}),
    ("training", {"training, sst": {*rows.THREE, GROUPED}, "training, sst, best precision": {"ours", GROUPED},
                  "training, cfimdb": {*rows.THREE}, "training, cfimdb, grouped": {"ours", GROUPED}}),
])
def test_a_row_is_measured(row: str, contenders: dict[str, set[str]]) -> None:
    """Would catch a row that breaks only when the whole benchmark has run for minutes, and a contender left out."""
    plan = Plan(threads=1, shape="toy", data=None, rounds=1, batches=1, texts=8, long_texts=4, memory_tasks=(),
                seeds=1, epochs=1)
    found = list(rows.ROWS[row](plan))
    for name, expected in contenders.items():
        there = [result for result in found if result.row == name]
        assert {result.contender.removesuffix(", bfloat16") for result in there} == expected
        assert all(0 < cost < 600 for result in there for cost in result.costs)
