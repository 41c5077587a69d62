"""The graded tests of a GPT-2 layer: right files pass them all, and each of them can fail."""

import pytest

import staff.grader.cases.layer  # noqa: F401 (registers the graded tests)
from staff.grader.case import CASES
from staff.grader.grade import run_case
from tests.staff.grader.trial import cases, right_files, wrong_files

FILE = "modules/gpt2_layer.py"
INNER = "self.interm_dense(self.out_layer_norm(x))"
MISTAKES = [
    ("known_answer", "M48"), ("known_answer", "M50d"), ("attention_half", "M49b"), ("attention_half", "M45a"),
    ("attention_half", [("attention_layer_norm(x), attention_mask)", "attention_layer_norm(x), 0 * attention_mask)")]),
    ("feed_forward_half", "M45c"), ("feed_forward_half", "M50c"), ("residual", "M47c"), ("residual", "M46a"),
    ("attention_dropout", "M51a"), ("attention_dropout", "M52"), ("out_dropout", "M51d"), ("out_dropout", "M52"),
    ("dropout_in_eval", [("self.out_dropout(self.out_dense(inner))",
                          "F.dropout(self.out_dense(inner), self.out_dropout.p)")]),
    ("gradients", [(INNER, INNER.replace("(x)", "(x.detach())"))]),
    ("gradients", [("self.attention_dense(attended)", "self.attention_dense(attended.detach())")]),
    ("inputs_unchanged", [("        x = x + self", "        x += self")]),
    ("state_dict", [("C = config.hidden_size", 'C = config.hidden_size; self.more = nn.Linear(C, C)')]),
    ("float64", [("self.out_dense(inner))", "self.out_dense(inner)).float()"), ("return x +", "return x.float() +")]),
]


@pytest.mark.parametrize("name, files", right_files().items(), ids=right_files())
def test_right_files_pass(name, files, box):
    """Catches: a test that knows one way to be right, or asks for more than the contract."""
    outcomes = [run_case(case, files, box, b"public") for case in cases("layer")]
    assert {outcome.case.name: outcome.measured for outcome in outcomes if not outcome.passed} == {}


@pytest.mark.parametrize("name, mistake", MISTAKES, ids=lambda value: value if isinstance(value, str) else "edit")
def test_each_test_can_fail(name, mistake, box):
    """Catches: a test that passes whatever it is sent."""
    outcome = run_case(CASES[f"layer.{name}"], wrong_files(FILE, mistake), box, b"public")
    assert outcome.status == "failed" and outcome.measured


def test_every_test_is_shown_to_fail():
    """Catches: a new graded test without a wrong file in the table above."""
    assert {f"layer.{name}" for name, _ in MISTAKES} == {case.name for case in cases("layer")}


@pytest.mark.parametrize("variant, form", [((), "tanh"), ([(', approximate="tanh"', "")], "erf")])
def test_both_forms_of_gelu_are_right_and_named(variant, form, box):
    """Catches: a test that takes one form for wrong, or does not say which it saw."""
    outcome = run_case(CASES["layer.known_answer"], wrong_files(FILE, variant), box, b"public")
    assert outcome.passed and outcome.measured == f"GELU: {form}"


def test_a_layer_that_does_nothing_passes_nothing(box):
    """Catches: a test whose property also holds where nothing is added to the input."""
    files = wrong_files(FILE, [("        x = hidden_states\n", "        return hidden_states\n")])
    assert [case.name for case in cases("layer") if run_case(case, files, box, b"public").passed] == []


def test_attention_gets_more_arguments_than_the_contract_says(box):
    """Catches: a stub that takes fewer arguments than a right attention may have."""
    files = wrong_files(FILE, [("attention_layer_norm(x), attention_mask)",
                                "attention_layer_norm(x), attention_mask=attention_mask, return_attn_probs=False)")])
    assert run_case(CASES["layer.known_answer"], files, box, b"public").passed
