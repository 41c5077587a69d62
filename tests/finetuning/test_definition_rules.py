"""The definition rules: whatever the student's files say is computed, right or wrong; the engine only makes it sooner.

Each test makes one file say something else, and compares a run with one of `--engine off`, which runs nothing but
these files.
"""

import shutil
import subprocess
import sys

import pytest
import torch

from classifier import GPT2SentimentClassifier
from common.errors import UserError
from models.gpt2 import GPT2Model
from modules.attention import CausalSelfAttention
from modules.gpt2_layer import GPT2Layer
from optimizer import AdamW
from tests.finetuning.kinds import Forgetful, LastPosition, Mean, Plain
from tests.finetuning.test_run import EPOCHS, MODES, STEPS, files, finish
from tests.mutants import mutate
from training.runs.session import OtherRun

FROZEN, FULL = MODES
ATTENTION, LAYER, OPTIMIZER = "modules/attention.py", "modules/gpt2_layer.py", "optimizer.py"
LAST_LINE = "return x + self.out_dropout(self.out_dense(inner))"
WRONG = {
    "a residual is missing": (LAYER, "x = x + self.attention_dropout(", "x = self.attention_dropout("),
    "nothing": (LAYER, LAST_LINE, "return x * 0"),
    "no causal mask": (ATTENTION, "scores.masked_fill(~causal, -math.inf) + attention_mask", "scores + attention_mask"),
    "padding is seen": (ATTENTION, "-math.inf) + attention_mask", "-math.inf)"),
    "attention without dropout": (ATTENTION, "self.dropout(scores.softmax(dim=-1))", "scores.softmax(dim=-1)"),
    "never corrects the bias": (OPTIMIZER, 'if group["correct_bias"]:', "if False:"),
    "always corrects the bias": (OPTIMIZER, 'if group["correct_bias"]:', "if True:"),
}
NO_DIFFERENCE_HERE = {("attention without dropout", FROZEN), ("padding is seen", FROZEN), ("padding is seen", FULL),
                      ("always corrects the bias", FROZEN), ("always corrects the bias", FULL)}
"""Nothing is dropped when frozen; the causal mask hides padding on the right; a run asks for the correction."""


def make_wrong(monkeypatch, file, old, new):
    """Let a class say what its file would with `old` replaced by `new`."""
    kind, method = {ATTENTION: (CausalSelfAttention, "forward"), LAYER: (GPT2Layer, "forward"),
                    OPTIMIZER: (AdamW, "step")}[file]
    monkeypatch.setattr(kind, method, getattr(getattr(mutate(file, (old, new)), kind.__name__), method))


def assert_same(ours, theirs):
    """The same run up to rounding."""
    assert len(ours.log()) == len(theirs.log()) == EPOCHS
    for mine, other in zip(ours.log(), theirs.log(), strict=True):
        assert mine == pytest.approx(other, rel=0, abs=1e-4)
    for split in ("dev", "test"):
        assert ours.predictions(split) == theirs.predictions(split)


def engine_lines(done):
    return [line for line in done.printed.splitlines() if line.startswith("engine: ")]


@pytest.fixture(scope="module", params=MODES)
def right(request, folder, tmp_path_factory):
    """A run of the right files, without the engine."""
    return finish(folder, tmp_path_factory.mktemp("right"), request.param, engine="off")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_what_runs(wrong, right, folder, tmp_path, monkeypatch):
    """Catches: an engine that computes GPT-2 or AdamW where the student's file says something else, in either mode or
    in evaluation only; and a difference that is not told, or with another file blamed.
    """
    file, mode = WRONG[wrong][0], right.mode
    # GPT-2's dropouts draw other numbers in the engine: where it serves, they are off.
    changes = {"backbone_dropout": 0.0} if file == OPTIMIZER else {}
    make_wrong(monkeypatch, *WRONG[wrong])
    ours = finish(folder, tmp_path / "auto", mode, **changes)
    theirs = finish(folder, tmp_path / "off", mode, engine="off", **changes)
    assert_same(ours, theirs)
    line, = engine_lines(ours)
    assert line.startswith(f"engine: {file} differs by ") and line.endswith("your code runs, slower")
    assert ours.json("run.json")["identity"]["engine"] == {"gpt2": file == OPTIMIZER, "adamw": file != OPTIMIZER}
    if (wrong, mode) not in NO_DIFFERENCE_HERE and not changes:
        assert ours.log() != [pytest.approx(record, abs=1e-3) for record in right.log()]


def test_two_wrong_files_are_both_told(folder, tmp_path, monkeypatch):
    """Catches: the second mistake found only when the first is mended."""
    make_wrong(monkeypatch, *WRONG["nothing"])
    make_wrong(monkeypatch, *WRONG["never corrects the bias"])
    ours = finish(folder, tmp_path / "auto", FULL)
    theirs = finish(folder, tmp_path / "off", FULL, engine="off")
    assert (ours.run / "log.jsonl").read_bytes() == (theirs.run / "log.jsonl").read_bytes()
    assert [line.split()[1] for line in engine_lines(ours)] == [LAYER, OPTIMIZER]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["auto", "off"])
def test_a_classifier_that_raises(folder, tmp_path, mode, engine):
    """Catches: the student's own error taken for a difference from the engine, and swallowed; a run folder left."""
    class Raises(Plain):
        def forward(self, input_ids, attention_mask):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        finish(folder, tmp_path, mode, Raises, engine=engine)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_raises(folder, tmp_path, monkeypatch, capsys):
    """Catches: the student's own error swallowed by the comparison with the engine."""
    make_wrong(monkeypatch, LAYER, LAST_LINE, "raise RuntimeError('mine')")
    with pytest.raises((RuntimeError, UserError), match="mine"):
        finish(folder, tmp_path, FULL)
    assert list(tmp_path.iterdir()) == []


# ---- right files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [GPT2SentimentClassifier, Plain, Mean, LastPosition, Forgetful])
def test_the_engine_changes_nothing_but_time(folder, tmp_path, mode, kind):
    """Catches: an engine that gives other losses or predictions than the files that it stands for, whatever a
    classifier reads of GPT-2 and freezes of it. Dropout inside GPT-2 is off: the engine draws other numbers for it.
    """
    ours = finish(folder, tmp_path / "auto", mode, kind, backbone_dropout=0.0)
    theirs = finish(folder, tmp_path / "off", mode, kind, backbone_dropout=0.0, engine="off")
    assert_same(ours, theirs)
    assert engine_lines(theirs) == ["engine: off, your code runs"]
    line, = engine_lines(ours)
    assert line.startswith("engine: agrees with your code to ")


@pytest.mark.parametrize("engine", ["auto", "off"])
def test_gradient_checkpointing_changes_no_loss(folder, tmp_path, engine):
    """Catches: blocks that are recomputed with other dropouts, by the engine or around the student's code. Dropout
    inside GPT-2 is on.
    """
    plain = finish(folder, tmp_path / "plain", FULL, engine=engine, backbone_dropout=0.2)
    recomputed = finish(folder, tmp_path / "recomputed", FULL, engine=engine, backbone_dropout=0.2,
                        gradient_checkpointing=True)
    assert (plain.run / "log.jsonl").read_bytes() == (recomputed.run / "log.jsonl").read_bytes()
    for split in ("dev", "test"):
        assert plain.predictions(split) == recomputed.predictions(split)


@pytest.mark.parametrize("before, after", [("auto", "off"), ("off", "auto")])
def test_a_run_is_resumed_with_its_own_engine(folder, tmp_path, before, after):
    """Catches: a resumed run whose second half is computed otherwise than its first."""
    finish(folder, tmp_path, FULL, engine=before)
    with pytest.raises(OtherRun, match=r"holds another run: engine\.gpt2 was '?(True|False)") as caught:
        finish(folder, tmp_path, FULL, engine=after, resume=True)
    assert "leave out --resume" in str(caught.value)
    finish(folder, tmp_path, FULL, engine=before, resume=True)


# ---- classifiers -----------------------------------------------------------------------------------------------------


def test_a_mean_over_all_tokens(folder, tmp_path, monkeypatch):
    """Catches: features stored for a classifier that reads more than the last token; GPT-2 trained, or in train mode,
    because it runs in every epoch; and a slower run that does not say why.
    """
    said = "classifier.py reads more of GPT-2 than each text's last_token: GPT-2 runs again in every epoch, slower"
    monkeypatch.setattr(Mean, "seen", [])
    frozen = finish(folder, tmp_path / "frozen", FROZEN, Mean)
    assert Mean.seen == [False] * STEPS and said in frozen.printed.splitlines()
    assert not (tmp_path / "frozen" / "runs" / "features").exists()
    start = GPT2Model.from_pretrained(str(folder / "model")).state_dict()
    stored = frozen.tensors(f"weights-{STEPS:08d}*")
    assert all(torch.equal(stored[f"gpt.{name}"], tensor) for name, tensor in start.items())

    monkeypatch.setattr(Mean, "seen", [])
    full = finish(folder, tmp_path / "full", FULL, Mean)
    assert Mean.seen == [True] * STEPS and said not in full.printed


def test_a_classifier_that_forgets_to_freeze(folder, tmp_path):
    """Catches: GPT-2 frozen, or its vectors stored, against what the student's file says; and no word about it."""
    done = finish(folder, tmp_path, FROZEN, Forgetful)
    assert "classifier.py leaves GPT-2's weights to be trained, in last-linear-layer mode too: so they are" \
        in done.printed.splitlines()
    start = GPT2Model.from_pretrained(str(folder / "model")).state_dict()
    stored = done.tensors(f"weights-{STEPS:08d}*")
    assert not any(torch.equal(stored[f"gpt.{name}"], tensor) for name, tensor in start.items())
    assert not (tmp_path / "runs" / "features").exists()


# ---- stored features -------------------------------------------------------------------------------------------------


def test_stored_features_follow_the_code(folder, tmp_path, monkeypatch):
    """Catches: vectors that the files of yesterday computed, given to those of today; and no reuse at all."""
    def features():
        return {name for name in files(tmp_path / "out" / "runs") if name.startswith("features/")}

    first = finish(folder, tmp_path / "out", FROZEN)
    log, predictions, stored = first.log(), first.predictions("dev"), features()
    with monkeypatch.context() as patch:
        make_wrong(patch, LAYER, LAST_LINE, LAST_LINE.replace("return x", "return (x") + ") * 0")
        again, fresh = finish(folder, tmp_path / "out", FROZEN), finish(folder, tmp_path / "fresh", FROZEN)
    assert again.log() == fresh.log() != log and again.predictions("dev") == fresh.predictions("dev")
    assert len(features()) == 6 and stored < features()

    restored = finish(folder, tmp_path / "out", FROZEN)
    assert restored.log() == log and restored.predictions("dev") == predictions and len(features()) == 6


# ---- the files themselves, edited ------------------------------------------------------------------------------------


ROOMS = ("sanity", "common", "data", "engine", "finetuning", "models", "modules", "training")


@pytest.fixture
def tree(root, tmp_path):
    """A copy of what classifier.py needs, reached through a link as a home directory may be."""
    for path in (path for room in ROOMS for path in (root / room).rglob("*.py")):
        copy = tmp_path / "real" / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for name in ("classifier.py", "optimizer.py", "sanity_check.py"):
        shutil.copy(root / name, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    return tmp_path / "link"


def edit(path, old, new):
    """Replace a piece of a file; the number of its line."""
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    return content[:content.index(old)].count("\n") + 1


def classify(tree, folder, out, mode, *words):
    """Run the copy's classifier.py (or what `words` begin with) as a user does."""
    script = words[:2] if words[:1] == ("-m",) else ("classifier.py",)
    return subprocess.run(
        [sys.executable, *script, "--train", folder / "train.csv", "--dev", folder / "dev.csv", "--num-labels", "2",
         "--model", folder / "model", "--epochs", "2", "--lr", "3e-3", "--fine-tune-mode", mode, "--device", "cpu",
         "--out", out, "--predictions", out / "predictions", *words[len(script) if script[0] == "-m" else 0:]],
        cwd=tree, capture_output=True, text=True)


def log_of(out, mode):
    return (out / f"own-{mode}" / "log.jsonl").read_bytes()


def test_a_wrong_file_in_a_copy_of_the_tree(tree, folder, tmp_path):
    """Catches: what the tests above, which change classes in this process, go round: a file as the student saves it.
    The optimizer is another one too, so that auto and off must agree bit for bit.
    """
    edit(tree / LAYER, LAST_LINE, "return x * 0")
    edit(tree / OPTIMIZER, *WRONG["never corrects the bias"][1:])
    for engine in ("auto", "off"):
        done = classify(tree, folder, tmp_path / engine, FULL, "--engine", engine)
        assert (done.returncode, done.stderr) == (0, "")
        for file in (LAYER, OPTIMIZER):
            assert (f"engine: {file} differs by " in done.stdout) == (engine == "auto")
    assert log_of(tmp_path / "auto", FULL) == log_of(tmp_path / "off", FULL)


def test_a_hole_after_a_good_run(tree, folder, tmp_path):
    """Catches: stored features that hide a hole, and one that ends in a traceback or in the wrong script's name."""
    good = classify(tree, folder, tmp_path / "out", FROZEN)
    assert (good.returncode, good.stderr) == (0, "") and "engine: agrees with your code" in good.stdout
    line = edit(tree / LAYER, "        x = hidden_states\n", "        raise NotImplementedError\n")
    done = classify(tree, folder, tmp_path / "out", FROZEN)
    assert done.returncode == 2
    assert done.stderr == (f"error: {LAYER}:{line}: forward is not written yet\n"
                           f"Begin with {LAYER}, then check it: ./setup.sh sanity_check.py\n")
    assert (tmp_path / "out" / f"own-{FROZEN}" / "result.json").exists()


@pytest.mark.parametrize("file, old, function, check", [
    (OPTIMIZER, "        loss = None\n", "step", "optimizer_test.py"),
    ("classifier.py", '        return self.head(self.gpt(input_ids, attention_mask)["last_token"])\n', "forward",
     "sanity_check.py")])
def test_a_hole(tree, folder, tmp_path, file, old, function, check):
    """Catches: a traceback where a file is not written yet, also where that file is the script itself, and without the
    engine.
    """
    line = edit(tree / file, old, "        raise NotImplementedError\n")
    for number, words in enumerate(([], ["--engine", "off"])):
        done = classify(tree, folder, tmp_path / str(number), FULL, *words)
        assert done.returncode == 2
        assert done.stderr == (f"error: {file}:{line}: {function} is not written yet\n"
                               f"Begin with {file}, then check it: ./setup.sh {check}\n")
        # Without the engine nobody takes a step before training does.
        assert (tmp_path / str(number)).exists() == (file == OPTIMIZER and number == 1)


def test_an_operation_that_a_device_lacks_is_no_hole(tree, folder, tmp_path):
    """Catches: PyTorch's own NotImplementedError told as code that the student has not written."""
    line = edit(tree / LAYER, "        x = hidden_states\n", "        x = hidden_states.to_sparse().cumsum(0)\n")
    done = classify(tree, folder, tmp_path / "out", FULL)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "not written yet" not in done.stderr
    assert done.stderr.startswith(f"error: {LAYER}:{line}: NotImplementedError: ")


@pytest.mark.parametrize("new, said", [
    ("        x = hidden_states.nowhere\n", "AttributeError: 'Tensor' object has no attribute 'nowhere'"),
    ("        x = (hidden_states\n", "SyntaxError: '(' was never closed")])
def test_an_error_in_a_students_file(tree, folder, tmp_path, new, said):
    """Catches: thirty lines of traceback through files that the student never saw."""
    line = edit(tree / LAYER, "        x = hidden_states\n", new)
    done = classify(tree, folder, tmp_path / "out", FULL)
    assert (done.returncode, done.stderr) == (
        2, f"error: {LAYER}:{line}: {said}\nCheck it: ./setup.sh sanity_check.py\n")
    check = subprocess.run([sys.executable, "sanity_check.py"], cwd=tree, capture_output=True, text=True)
    assert check.returncode == 1 and "Traceback" not in check.stdout + check.stderr
    assert said.split("'")[0] in check.stdout and f"{LAYER}:{line}" in check.stdout
    assert "  ok    0e+00  four steps" in check.stdout  # the other files are checked all the same


def test_the_room_runs_the_head_of_any_classifier_file(tree, folder, tmp_path):
    """Catches: `python -m finetuning` that needs more of classifier.py than the class, such as our command line."""
    kinds = (tree.parent / "real" / "classifier.py")
    kinds.write_text("from torch import nn\nfrom models.gpt2 import GPT2Model\n\n\n"
                     "class GPT2SentimentClassifier(nn.Module):\n"
                     "    def __init__(self, config):\n"
                     "        super().__init__()\n"
                     "        self.gpt = GPT2Model.from_pretrained()\n"
                     "        for p in self.gpt.parameters():\n"
                     "            p.requires_grad = config.fine_tune_mode == 'full-model'\n"
                     "        self.drop = nn.Dropout(config.hidden_dropout_prob)\n"
                     "        self.out = nn.Linear(config.hidden_size, config.num_labels)\n\n"
                     "    def forward(self, ids, mask):\n"
                     "        return self.out(self.drop(self.gpt(ids, mask)['last_token']))\n\n\n"
                     "if __name__ == '__main__':\n"
                     "    raise SystemExit('the script of the course')\n")
    done = classify(tree, folder, tmp_path / "out", FROZEN, "-m", "finetuning")
    assert (done.returncode, done.stderr) == (0, "") and "last-linear-layer, epoch" in done.stdout
