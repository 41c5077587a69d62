"""AdamW in NumPy, written from the papers alone: what the optimizer is held to, and the source of optimizer_test.npy.

    python tests/oracles.py     writes optimizer_test.npy anew
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

Array = np.ndarray
ROOT = Path(__file__).resolve().parent.parent


def adamw(
    param: Array,
    grads: Iterable[Array | None] | Callable[[Array], Array],
    steps: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    correct_bias: bool = True,
    form: str = "efficient",
) -> Array:
    """`param` after `steps` steps, in its own precision (float64 for an oracle).

    grads: the gradients one by one, None where there is none that step; or a function from the parameter to its
    gradient. form: "efficient", Kingma & Ba 2015, end of section 2: the step size carries the bias correction and
    eps is added to sqrt(v); or "hat", their Algorithm 1: both means are corrected and eps is added to
    sqrt(v_hat). Decoupled decay (Loshchilov & Hutter 2019), times lr, after the update.
    """
    one = param.dtype.type(1)  # keeps float32 arithmetic in float32
    beta1, beta2 = one * betas[0], one * betas[1]
    m, v, t = np.zeros_like(param), np.zeros_like(param), 0
    gradients = None if callable(grads) else iter(grads)
    for _ in range(steps):
        g = grads(param) if gradients is None else next(gradients)
        if g is None:
            continue
        t += 1
        g = g.astype(param.dtype)
        m = beta1 * m + one * (1 - betas[0]) * g
        v = beta2 * v + one * (1 - betas[1]) * g * g
        short1, short2 = (1 - betas[0] ** t, 1 - betas[1] ** t) if correct_bias else (1.0, 1.0)
        if form == "efficient":
            param = param - one * (lr * short2**0.5 / short1) * m / (np.sqrt(v) + one * eps)
        elif form == "hat":
            param = param - one * lr * (m / (one * short1)) / (np.sqrt(v / (one * short2)) + one * eps)
        else:
            raise ValueError(form)
        param = param - one * (lr * weight_decay) * param
    return param


# torch.nn.Linear(3, 2, bias=False) made under torch.manual_seed(0), to the bit.
FIRST_WEIGHT = np.array(
    [[-0.004322517663240433, 0.3097158372402191, -0.4751853346824646],
     [-0.4248946011066437, -0.2223689705133438, 0.15482072532176971]], np.float32)  # fmt: skip


def reference() -> Array:
    """The weight after the 1000 steps of optimizer_test.py.

    In float32 like the run it is compared with: near its minimum the gradient is mostly rounding error, which
    Adam's division blows up, so that a float64 run ends 7e-6 elsewhere.
    """
    rng = np.random.default_rng(0)

    def grad(weight: Array) -> Array:
        """Of ((y - weight x)^2).sum() by weight, for the next x."""
        x = rng.uniform(size=3).astype(np.float32)
        y = np.array([x[0] + x[1], -x[2]])
        return np.outer(2 * (weight @ x - y), x)

    return adamw(FIRST_WEIGHT, grad, 1000, lr=1e-3, weight_decay=1e-4)


if __name__ == "__main__":
    np.save(ROOT / "optimizer_test.npy", reference())
    print(np.load(ROOT / "optimizer_test.npy"))
