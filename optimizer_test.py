"""Check optimizer.AdamW: 1000 steps to saved reference weights, then the usual mistakes one by one. Exit status 0 or 1.

    ./setup.sh optimizer_test.py

The reference, optimizer_test.npy, is the weight of a small linear map after 1000 steps in float32 at learning rate 1e-3
and weight decay 1e-4. It comes from an implementation in NumPy (`python tests/oracles.py`). Tolerances are the
course's: they allow for the rounding of 1000 steps, 2e-5 between two right implementations, and so hide small mistakes.
Those are found by the checks that follow, a few steps each in float64.
"""

from pathlib import Path

from common import cli

HANDOUT = "docs/assignment.md, section 1"
REFERENCE = Path(__file__).resolve().with_name("optimizer_test.npy")


def test_optimizer(opt_class):
    """The weight [2, 3] of a linear map after 1000 steps with `opt_class` towards y = (x0 + x1, -x2)."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = opt_class(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(1000):
        optimizer.zero_grad()
        x = torch.FloatTensor(rng.uniform(size=[model.in_features]))
        y = torch.stack([x[0] + x[1], -x[2]])
        ((y - model(x)) ** 2).sum().backward()
        optimizer.step()
    return model.weight.detach()


test_optimizer.__test__ = False  # for course scripts to call, not for pytest


def main() -> int:
    """Print both checks' results; 0 if all is well."""
    cli.Parser(description=__doc__).parse_args()

    import numpy as np
    import torch

    from common.errors import UserError
    from common.student_files import describe

    reference = torch.from_numpy(np.load(REFERENCE))
    try:
        from optimizer import AdamW

        actual = test_optimizer(AdamW)
    except ZeroDivisionError:  # the checks below know why
        actual = torch.full_like(reference, torch.nan)
    except Exception as error:
        where, line, what = describe(error)
        if where != "optimizer.py":
            raise
        do = "Write" if isinstance(error, NotImplementedError) else "Mend"
        raise UserError(f"{where}:{line}: {what}\n{do} it ({HANDOUT}), then run this again") from error

    from sanity import optimizer
    from sanity.checks import run

    good = torch.allclose(actual, reference, rtol=1e-4, atol=1e-6)  # not for NaN
    print(f"reference:\n{reference.numpy()}\nactual:\n{actual.numpy()}")
    print(f"largest difference: {(actual - reference).abs().max().item():.1e} (at most 1e-6 + 1e-4 of each number)")
    results = run("step by step, in float64: the largest difference from the formulas", optimizer.CHECKS, AdamW,
                  first_decides=True)
    good = good and all(result.passed for result in results)
    print("\nOptimizer test passed!" if good else f"\nOptimizer test FAILED: mend the first failure ({HANDOUT})")
    return 0 if good else 1


if __name__ == "__main__":
    cli.run(main)
