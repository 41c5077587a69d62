"""The graded tests of classifier.py: right heads of many kinds pass them all, wrong ones fail those of their fault."""

import numpy as np
import pytest

from staff.grader.case import CASES, generator
from staff.grader.cases import head  # noqa: F401 (enters the tests in CASES)
from staff.grader.grade import SUPPORT, run_case
from tests.contract.trial import MISTAKES, ROOT, SETS, names

FILE = "classifier.py"
HEAD = [case for case in CASES.values() if case.component == "head"]
OURS = (ROOT / FILE).read_text(encoding="utf-8")

PLAIN = """
import torch
from torch import nn
import torch.nn.functional as F
from models.gpt2 import GPT2Model

class GPT2SentimentClassifier(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.gpt = GPT2Model.from_pretrained()
        for parameter in self.gpt.parameters():
            parameter.requires_grad = config.fine_tune_mode == 'full-model'
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask):
        x = self.gpt(input_ids, attention_mask)['last_token']
        return self.proj(self.dropout(x))
"""


def files_of(set_name: str) -> dict[str, bytes]:
    """Return classifier.py of a set, with what its author brought along."""
    paths = {name: SETS / set_name / name for name in (FILE, *SUPPORT)}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def failed(files, box, seed=b"seed") -> dict[str, str]:
    """Return the tests that fail: name -> status and what was measured."""
    outcomes = {case.name.partition(".")[2]: run_case(case, files, box, seed) for case in HEAD}
    return {name: f"{outcome.status}: {outcome.measured}" for name, outcome in outcomes.items() if not outcome.passed}


def edited(*edits: tuple[str, str]) -> dict[str, bytes]:
    """Return the plain head with pieces of text replaced, each of which must be there once."""
    source = PLAIN
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return {FILE: source.encode()}


@pytest.mark.parametrize("set_name", ["ours", *names()])
def test_right_files_pass(box, set_name):
    assert failed({FILE: OURS.encode()} if set_name == "ours" else files_of(set_name), box, set_name.encode()) == {}


CALL, PROJ, DROP = "self.proj(self.dropout(x))", "nn.Linear(config.hidden_size, config.num_labels)", "self.dropout(x)"
LAST, FREEZE = "self.gpt(input_ids, attention_mask)['last_token']", "config.fine_tune_mode == 'full-model'"
ROWS = "x[torch.arange(len(x)), attention_mask.sum(1) - 1]"

RIGHT = {
    "no dropout": [(CALL, "self.proj(x)")],
    "no bias": [(PROJ, PROJ.replace("labels)", "labels, bias=False)"))],
    "two layers": [(CALL, "self.proj(torch.tanh(self.inner(self.dropout(x))))"),
                   (PROJ, f"{PROJ}\n        self.inner = nn.Linear(config.hidden_size, config.hidden_size)")],
    "dropout from F": [(DROP, "F.dropout(x, self.config.hidden_dropout_prob, self.training)")],
    "last token by the mask": [(LAST, f"self.gpt(input_ids, attention_mask)['last_hidden_state']; x = {ROWS}")],
    "frozen by no_grad": [(FREEZE, "True"), (LAST, f"""None
        with torch.set_grad_enabled(self.config.fine_tune_mode == 'full-model' and torch.is_grad_enabled()):
            x = {LAST}""")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_other_right_heads_pass(box, name):
    assert failed(edited(*RIGHT[name]), box) == {}


SHAPE_TESTS = "logits sizes last_token evaluation dropout frozen full_model overfit"
WRONG = {  # mistake: (what is replaced, by what, the tests that fail; no others)
    "softmax": (CALL, f"{CALL}.softmax(dim=-1)", "logits overfit"),
    "mean": (LAST, LAST.replace("['last_token']", "['last_hidden_state'].mean(dim=1)"), "last_token"),
    "dropout on logits": (CALL, "self.dropout(self.proj(x))", "dropout"),
    "dropout in eval mode": (DROP, "F.dropout(x, self.config.hidden_dropout_prob)", "evaluation"),
    "768": (PROJ, PROJ.replace("config.hidden_size", "768"), "sizes"),
    "head in a list": (f"self.proj = {PROJ}", f"self.__dict__['proj'] = {PROJ}", "frozen full_model overfit"),
    "nothing is frozen": (FREEZE, "True", "frozen"),
    "always frozen": (FREEZE, "False", "full_model"),
}
MORE_WRONG = {
    "log_softmax": (CALL, f"F.log_softmax({CALL}, dim=-1)", "logits"),
    "sigmoid": (CALL, f"{CALL}.sigmoid()", "logits overfit"),
    "last position": (LAST, LAST.replace("['last_token']", "['last_hidden_state'][:, -1]"), "last_token overfit"),
    "attribute of a dict": (LAST, LAST.replace("['last_token']", ".last_hidden_state"), SHAPE_TESTS),
    "dropout has its own p": ("nn.Dropout(config.hidden_dropout_prob)", "nn.Dropout(0.1)", "dropout"),
    "5 labels": (PROJ, PROJ.replace("config.num_labels", "5"), "sizes"),
    "head made in forward": (CALL, f"{PROJ.replace('config', 'self.config')}({DROP})",
                             "last_token evaluation dropout frozen full_model overfit"),
    "head frozen, too": (PROJ, f"{PROJ}\n        self.requires_grad_({FREEZE})", "frozen overfit"),
    "gradients set to 0": (FREEZE, "True; parameter.register_hook(lambda gradient: gradient * 0)", "frozen full_model"),
    "no_grad": (LAST, f"None\n        with torch.no_grad():\n            x = {LAST}", "full_model"),
    "gpt in train mode": (LAST, f"self.gpt.train()({LAST[9:]}", "evaluation"),
    "one label": (CALL, f"{CALL}[:, 1:2]", SHAPE_TESTS),
    "an axis too many": (CALL, f"{CALL}[:, None]", SHAPE_TESTS),
}


@pytest.mark.parametrize("name", [*WRONG, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_WRONG)])
def test_wrong_heads_fail_the_tests_of_their_fault_alone(box, name):
    *edit, tests = (WRONG | MORE_WRONG)[name]
    assert sorted(failed(edited(edit), box)) == sorted(tests.split())


def test_every_test_can_fail():
    assert {test for *_, tests in WRONG.values() for test in tests.split()} == {case.name[5:] for case in HEAD}


@pytest.mark.parametrize("mistake", [known["name"] for known in MISTAKES if known["file"] == FILE])
def test_known_mistakes_in_other_hands_fail(box, mistake):
    known = next(known for known in MISTAKES if known["name"] == mistake)
    files = files_of(known["set"])
    files[FILE] = files[FILE].replace(known["old"].encode(), known["new"].encode())
    assert not all(run_case(case, files, box, b"seed").passed for case in HEAD)  # stops at the first that fails


def test_an_unfinished_head_is_not_implemented(box):
    said = failed(edited(("        x = self.gpt", "        raise NotImplementedError\n        x = self.gpt")), box)
    assert len(said) == len(HEAD) and all(text.startswith("not implemented") for text in said.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_overfit_passes_for_every_seed(box, seed):
    """A threshold that is met by luck would be missed by one of these."""
    assert run_case(CASES["head.overfit"], edited(*RIGHT["two layers"]), box, b"%d" % seed).passed
    assert run_case(CASES["head.overfit"], edited(), box, b"%d" % seed).passed


@pytest.mark.parametrize("name", [case.name for case in HEAD])
def test_inputs_differ_by_seed_and_are_small(name):
    one, two = (next(CASES[name].function(generator(seed, name))).arrays() for seed in (b"a", b"b"))
    assert any(not np.array_equal(one[key], two[key]) for key in one)
    assert sum(array.nbytes for array in one.values()) < 10_000
