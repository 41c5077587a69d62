"""sanity_check.py as its user sees it. That its checks bite is shown in tests/modules and tests/models."""

import os
import subprocess
import sys

import pytest
import torch

import sanity_check
from classifier import GPT2SentimentClassifier
from sanity import attention, checks, head
from sanity.checks import Result, compare, difference, run
from tests.mutants import caught_by, mutate

HEAD = {  # name: (part of a mistake that must be named, edits)
    "M61 softmax": ("probabilities", [('["last_token"])', '["last_token"]).softmax(dim=-1)')]),
    "M61 log softmax": ("probabilities", [('["last_token"])', '["last_token"]).log_softmax(dim=-1)')]),
    "M61 sigmoid": ("without a sigmoid", [('["last_token"])', '["last_token"]).sigmoid()')]),
    "M62 last position": ("not last_hidden_state", [('["last_token"]', '["last_hidden_state"][:, -1]')]),
    "M62 mean": ("not last_hidden_state", [('["last_token"]', '["last_hidden_state"].mean(dim=1)')]),
    "M62 no mask": ("not given attention_mask", [("self.gpt(input_ids, attention_mask)", "self.gpt(input_ids, None)")]),
    "M62 mask of ones": ("not given attention_mask", [
        ("self.gpt(input_ids, attention_mask)", "self.gpt(input_ids, attention_mask.clamp(min=1))")]),
    "M63 attribute of a dict": ("AttributeError", [('["last_token"]', ".last_token")]),
    "M64 dropout on logits": ("dropout is applied to the logits", [
        ("nn.Dropout(config.hidden_dropout_prob),", ""),
        ("config.num_labels))\n", "config.num_labels), nn.Dropout(config.hidden_dropout_prob))\n")]),
    "M65 dropout fixed": ("a probability of its own", [("nn.Dropout(config.hidden_dropout_prob)", "nn.Dropout(0.3)")]),
    "no dropout": ("hidden_dropout_prob is not used", [("nn.Dropout(config.hidden_dropout_prob),", "")]),
    "M66 five labels": ("expected finite logits of shape [3, 2]", [("config.num_labels))\n", "5))\n")]),
    "M66 width 768": ("RuntimeError", [("nn.Linear(config.hidden_size", "nn.Linear(768")]),
    "M68 not frozen": ("GPT-2 is trained", [("requires_grad_(not self.frozen)", "requires_grad_(True)")]),
    "M68 all frozen": ("the head is frozen too", [
        ("        self.train()\n", "        self.requires_grad_(not self.frozen)\n")]),
    "M68 full model frozen": ("not trained: gpt.", [("requires_grad_(not self.frozen)", "requires_grad_(False)")]),
    "M73 wrong shape": ("shape", [('["last_token"])', '["last_token"])[:, None]')]),
}


@pytest.mark.parametrize("check", head.CHECKS, ids=lambda check: check.__name__)
def test_our_head_passes(check):
    """Catches: a head that reads the wrong token, normalises, or freezes the wrong part."""
    result = check(GPT2SentimentClassifier)
    assert result.passed, result


@pytest.mark.parametrize("name", HEAD)
def test_a_wrong_head_is_caught(name):
    """Catches: a check too weak to see this mistake, or a diagnosis that blames something else."""
    named, edits = HEAD[name]
    mistakes = caught_by(head.CHECKS, mutate("classifier.py", *edits).GPT2SentimentClassifier)
    assert mistakes and any(named in mistake for mistake in mistakes), mistakes


def test_the_whole_script(root, tmp_path):
    """Catches: a download, a crash, a check that our own code fails, a wrong exit status; from any folder."""
    done = subprocess.run([sys.executable, root / "sanity_check.py", "--model", root / "models/gpt2-tiny"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=240,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout and done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ok")]
    assert all(float(line.split()[1]) <= 1e-4 for line in lines)
    assert max(map(len, done.stdout.splitlines())) <= 79
    assert done.stdout.splitlines()[-2:] == [f"{len(lines)} of {len(lines)} checks passed",
                                             "next: ./setup.sh classifier.py --quick"]
    for part in ("AdamW", "attention", "layer", "model", "model, on a small random checkpoint", "classifier"):
        assert f"\n{part}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_model_name_is_said_at_once(root):
    """Catches: a traceback, or ten seconds of checks before the error."""
    done = subprocess.run([sys.executable, root / "sanity_check.py", "--model", "./no-such-folder"],
                          capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no model folder './no-such-folder'")


def test_a_mistake_ends_with_1_and_its_name(monkeypatch, capsys):
    """Catches: a failure that is printed and forgotten, or that keeps the other parts from being checked."""
    wrong = mutate("modules/attention.py", (" / math.sqrt(hs)", ""))
    monkeypatch.setattr("modules.attention.CausalSelfAttention", wrong.CausalSelfAttention)
    monkeypatch.setattr(sys, "argv", ["sanity_check.py"])
    assert sanity_check.main() == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "the scores are not divided by sqrt(head size)" in out
    assert "logits [B, num_labels] of last_token" in out
    count = out[:out.index("\nnext: ")].splitlines()[-1]
    passed, total = (int(word) for word in count.split() if word.isdigit())
    assert passed < total
    assert " ".join(out[out.index("\nnext: "):].split()) == (
        "next: mend modules/attention.py, at the first failure above (docs/assignment.md, section 2)")


def test_a_hole_is_no_traceback(capsys):
    """Catches: an unfinished part that looks like a crash, or hides the place where it is to be filled in."""
    hole = mutate("modules/attention.py", ("T, hs = query.shape[-2:]", "raise NotImplementedError"))
    results = run("attention", attention.CHECKS, hole.CausalSelfAttention)
    assert not any(result.passed for result in results)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  TODO") for line in lines) == 1  # one hole is told once
    assert lines[3].strip().startswith("not written yet: modules/attention.py:")
    assert lines[4].strip() == f"{len(attention.CHECKS) - 1} more fail, or wait: mend this first, then run again"


def test_a_crash_in_one_check_leaves_the_others(capsys):
    """Catches: an exception that ends the script, and one whose place is not shown."""
    def crash():
        """it crashes"""
        raise KeyError("nowhere")

    def fine():
        """it does not"""
        return Result(0.0)

    assert [result.passed for result in run("part", [crash, fine])] == [False, True]
    out = capsys.readouterr().out
    assert "FAIL  -      it crashes" in out and "KeyError: 'nowhere' (tests/test_sanity_check.py:" in out
    assert "ok    0e+00  it does not" in out


@pytest.mark.parametrize("got, distance, said", [
    (torch.tensor([1.0, 0.5]), 0.0, ""),
    (torch.tensor([1.0, 0.5]) + 9e-6, 9e-6, ""),
    (torch.tensor([1.0, 0.75]), 0.25, r"largest difference is at [1]: 0.7500, expected 0.5000"),
    (torch.tensor([0.5, 1.0]), 0.5, "swapped"),
    (torch.tensor([1.0]), float("inf"), "the shape is [1], not [2]"),
    (torch.tensor([1.0, float("nan")]), float("inf"), "NaN"),
    (None, float("inf"), "the result is a NoneType, not a tensor")])
def test_compare(got, distance, said):
    """Catches: NaN or another shape that passes, and a diagnosis of something else."""
    for mistakes in ({"swapped": torch.tensor([0.5, 1.0])}, [("swapped", torch.tensor([0.5, 1.0]))]):
        result = compare(got, torch.tensor([1.0, 0.5]), mistakes)
        assert result.difference == pytest.approx(distance, rel=0.05)
        assert result.passed == (distance < 1e-5)
        assert said in result.mistake


def test_large_numbers_are_compared_by_their_size():
    """Catches: float32 rounding of large numbers taken for a mistake; a mistake in small ones hidden behind them."""
    assert compare(torch.tensor([100.0005]), torch.tensor([100.0])).passed
    assert not compare(torch.tensor([100.01]), torch.tensor([100.0])).passed
    assert not compare(torch.tensor([0.0101]), torch.tensor([0.01])).passed


def test_what_follows_from_the_first_failure_is_not_diagnosed(capsys):
    """Catches: five wrong guesses below the one right name of a mistake."""
    def first():
        """first"""
        return Result(1.0, mistake="the scale is missing")

    def second():
        """second"""
        return Result(1.0, mistake="no known mistake")

    run("part", [first, second], first_decides=True)
    out = capsys.readouterr().out
    assert "the scale is missing" in out and "no known mistake" not in out and "1 more fail" in out


def test_difference_of_nothing():
    """Catches: a crash on empty tensors."""
    assert difference(torch.zeros(0, 3), torch.zeros(0, 3)) == 0.0
    assert checks.TOLERANCE == 1e-5
