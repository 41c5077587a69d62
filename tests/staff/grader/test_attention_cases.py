"""The graded tests of attention: right files pass them all, and each of them can fail."""

import pytest

import staff.grader.cases.attention  # noqa: F401 (registers the graded tests)
from staff.grader.case import CASES, generator
from staff.grader.grade import run_case
from tests.staff.grader.trial import cases, right_files, wrong_files

FILE = "modules/attention.py"
PADDING = " + attention_mask"
DROPOUT = "self.dropout = nn.Dropout(config.attention_probs_dropout_prob)"
MISTAKES = [
    ("known_answer", "M27"), ("known_answer", "M34b"), ("known_answer_without_padding", "M28b"), ("shapes", "M42a"),
    ("shapes", [(".tril()", ".tril(); causal[500:] = causal[499]")]), ("causality", "M29"), ("causality", "M30a"),
    ("causality", [(".tril()", ".tril().triu()")]), ("padding", "M35a"), ("padding", "M35c"),
    ("padding", [(PADDING, " + (-1e9 * (1 - torch.eye(T)))")]), ("dropout", "M39"), ("dropout", "M40a"),
    ("dropout_on_weights", "M40b"), ("dropout_in_eval", "M40c"), ("inputs_unchanged", "M43"), ("any_device", "M41"),
    ("any_device", [(DROPOUT, f"{DROPOUT}; self.seen = torch.ones(1024, 1024, dtype=torch.bool).tril()"),
                    ("torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()", "self.seen[:T, :T]")]),
    ("large_scores", [("scores.softmax(dim=-1)", "(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))")]),
    ("batch", [(PADDING, " + attention_mask[:1]")]), ("gradients", [("scores.softmax", "scores.detach().softmax")]),
    ("state_dict", [(DROPOUT, f'{DROPOUT}; self.register_buffer("causal", torch.ones(8, 8))')]),
    ("float64", [("weights @ value", "(weights @ value).float()")]),
]


@pytest.mark.parametrize("name, files", right_files().items(), ids=right_files())
def test_right_files_pass(name, files, box):
    """Catches: a test that knows one way to be right, or asks for more than the contract."""
    outcomes = [run_case(case, files, box, b"public") for case in cases("attention")]
    assert {outcome.case.name: outcome.measured for outcome in outcomes if not outcome.passed} == {}


@pytest.mark.parametrize("name, mistake", MISTAKES, ids=lambda value: value if isinstance(value, str) else "edit")
def test_each_test_can_fail(name, mistake, box):
    """Catches: a test that passes whatever it is sent."""
    outcome = run_case(CASES[f"attention.{name}"], wrong_files(FILE, mistake), box, b"public")
    assert outcome.status == "failed" and outcome.measured


def test_every_test_is_shown_to_fail():
    """Catches: a new graded test without a wrong file in the table above."""
    assert {f"attention.{name}" for name, _ in MISTAKES} == {case.name for case in cases("attention")}


def test_sizes_differ_with_the_seed_and_heads_divide_channels():
    """Catches: a size that a submission can know before, or that the contract does not allow."""
    requests = [next(CASES["attention.known_answer"].function(generator(bytes([seed]), "attention.known_answer")))
                for seed in range(20)]
    sizes = {(r.inputs["C"], r.inputs["nh"], *r.inputs["x"].shape[:2]) for r in requests}
    assert len(sizes) > 12
    for C, nh, _, T in sizes:
        assert C % nh == 0 and C != 768 and nh != T != C // nh


def test_an_attention_that_does_nothing_passes_nothing(box):
    """Catches: a test whose property also holds where tokens are not mixed at all."""
    body = "        query = self.split_heads(self.query(hidden_states))\n"
    for result in ("hidden_states", "hidden_states * 0", "self.value(hidden_states)"):
        files = wrong_files(FILE, [(body, f"        return {result}\n")])
        assert [case.name for case in cases("attention") if run_case(case, files, box, b"public").passed] == []
