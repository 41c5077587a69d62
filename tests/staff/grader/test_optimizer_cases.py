"""The graded tests of AdamW: right files pass them all, and each of them can fail."""

import numpy as np
import pytest

import staff.grader.cases.optimizer as optimizer_cases
from staff.grader.case import CASES, Wrong, generator
from staff.grader.grade import run_case
from tests.staff.grader.trial import cases, right_files, wrong_files

STATE = "state = self.state[p]"
MISTAKES = [
    ("first_step", "M1"), ("six_steps", "M7c"), ("fifty_steps", "M10d"), ("no_bias_correction", "M4"),
    ("betas", "M19b"), ("eps", "M17"), ("eps", "M18b"), ("weight_decay", "M11"), ("weight_decay", "M14"),
    ("decay_after_update", "M15a"), ("zero_gradient", "M16a"), ("missing_gradient", "M16b"),
    ("two_parameters", "M8a"), ("two_groups", "M23b"), ("changed_lr", "M24"), ("gradient_unchanged", "M21"),
    ("same_parameter", "M26b"), ("two_optimizers", "M9b"), ("minimum", "M25"),
    ("shapes", [("v.mul_(beta2)", "v.view(-1); v.mul_(beta2)")]),  # not for what is not contiguous
    ("float64", [(STATE, f"p.data = p.data.float(); p.grad = p.grad.float(); {STATE}")]),
    ("state_dict", [(STATE, 'state = self.__dict__.setdefault("mine", {}).setdefault(p, {})')]),
    ("closure", [("return loss", "return None")]),
    ("closure", [("loss = closure()", "loss = closure(); closure()")]),
]


@pytest.mark.parametrize("name, files", right_files().items(), ids=right_files())
def test_right_files_pass(name, files, box):
    """Catches: a test that knows one way to be right, or asks for more than the contract."""
    outcomes = [run_case(case, files, box, b"public") for case in cases("optimizer")]
    assert {outcome.case.name: outcome.measured for outcome in outcomes if not outcome.passed} == {}


@pytest.mark.parametrize("name, mistake", MISTAKES, ids=lambda value: value if isinstance(value, str) else "edit")
def test_each_test_can_fail(name, mistake, box):
    """Catches: a test that passes whatever it is sent."""
    outcome = run_case(CASES[f"optimizer.{name}"], wrong_files("optimizer.py", mistake), box, b"public")
    assert outcome.status == "failed" and outcome.measured


def test_every_test_is_shown_to_fail():
    """Catches: a new graded test without a wrong file in the table above."""
    assert {f"optimizer.{name}" for name, _ in MISTAKES} == {case.name for case in cases("optimizer")}


def test_decay_before_the_update_costs_one_test_and_is_named(box):
    """Catches: a policy that is not the stated one."""
    outcomes = [run_case(case, wrong_files("optimizer.py", "M15b"), box, b"public") for case in cases("optimizer")]
    assert [outcome.case.name for outcome in outcomes if not outcome.passed] == ["optimizer.decay_after_update"]
    assert "efficient form, decay before the update" in {outcome.measured for outcome in outcomes}


def test_half_of_one_form_and_half_of_the_other_is_wrong():
    """Catches: arrays that are compared one by one, each with every right answer."""
    inputs = optimizer_cases.problem(np.random.default_rng(0), 2, eps=0.01, smallest=0.02, largest=0.2)
    efficient, hat = (optimizer_cases.values(inputs, form, "after") for form in ("efficient", "hat"))
    assert optimizer_cases.expect_right(inputs, hat) == "hat form, decay after the update"
    with pytest.raises(Wrong, match="p0 after step"):
        optimizer_cases.expect_right(inputs, efficient | {"p0 after step 2": hat["p0 after step 2"]})


def test_inputs_differ_with_the_seed():
    """Catches: shapes or numbers that a submission can know before."""
    requests = [next(CASES["optimizer.six_steps"].function(generator(bytes([seed]), "optimizer.six_steps")))
                for seed in range(12)]
    assert len({request.inputs["p0"].shape for request in requests}) > 3
    assert len({request.inputs["p0"].flat[0] for request in requests}) == 12


def test_an_optimizer_that_does_nothing_passes_nothing(box):
    """Catches: a test whose property also holds where nothing is done."""
    files = {"optimizer.py": b"import torch\n\n\nclass AdamW(torch.optim.Optimizer):\n"
             b"    def __init__(self, params, **options):\n        super().__init__(params, options)\n\n"
             b"    def step(self, closure=None):\n        return closure and closure()\n"}
    assert [case.name for case in cases("optimizer") if run_case(case, files, box, b"public").passed] == []
