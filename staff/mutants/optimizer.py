"""Mistakes in AdamW, and other right ways to write it."""

from staff.mutants.edit import Mutant, Variant

MEAN = "m.mul_(beta1).add_(p.grad, alpha=1 - beta1)"
SQUARE = "v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)"
EPS = 'group["eps"]'
ROOT_PLUS_EPS = f"v.sqrt().add_({EPS})"
MOVE = f"p.addcdiv_(m, {ROOT_PLUS_EPS}, value=-step_size)"
RATE = '-lr * group["weight_decay"]'
DECAY = f"p.add_(p, alpha={RATE})"
SIZE = "step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)"
UNCORRECTED = "step_size = lr\n"
ZERO_MEAN = 'state["exp_avg"] = torch.zeros_like(p)'
ZERO_SQUARE = 'state["exp_avg_sq"] = torch.zeros_like(p)'
OPTIONS = 'lr, (beta1, beta2) = group["lr"], group["betas"]'
MISSING = "if p.grad is None:\n                    continue"
NAMES = 't, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]'
COUNT = 'state["step"] += 1'
HAT = "m, v = m / (1 - beta1**t), v / (1 - beta2**t)"


def mutant(id: str, title: str, killer: str, *edits: tuple[str, str], wild: bool = False) -> Mutant:
    return Mutant(id, "optimizer.py", title, f"optimizer.{killer}", edits, wild)


MUTANTS = [
    # Bias correction.
    mutant("M1", "there is no bias correction", "first_step", (SIZE, "pass")),
    mutant("M2a", "only the first moment is corrected for its start at zero", "first_step",
           (SIZE, "step_size = lr / (1 - beta1**t)")),
    mutant("M2b", "only the second moment is corrected for its start at zero", "first_step",
           (SIZE, "step_size = lr * math.sqrt(1 - beta2**t)")),
    mutant("M2c", "only the second moment is corrected for its start at zero", "first_step",
           (SIZE, "v = v / (1 - beta2**t)")),
    mutant("M3a", "the square root is missing in the bias correction", "first_step",
           ("math.sqrt(1 - beta2**t)", "(1 - beta2**t)")),
    mutant("M3b", "the bias correction is inverted", "first_step",
           (SIZE, "step_size = lr * (1 - beta1**t) / math.sqrt(1 - beta2**t)")),
    mutant("M3c", "the bias correction is inverted", "first_step",
           (SIZE, "m, v = m * (1 - beta1**t), v * (1 - beta2**t)")),
    mutant("M4", "correct_bias is ignored: the moments are always corrected", "no_bias_correction",
           ('if group["correct_bias"]:', "if True:"), wild=True),
    mutant("M5", "with correct_bias=False the second moment is still corrected", "no_bias_correction",
           (UNCORRECTED, "step_size = lr * math.sqrt(1 - beta2**t)\n"), wild=True),
    mutant("M6", "correct_bias=False crashes: a name is only set when it is True", "no_bias_correction",
           (UNCORRECTED, "pass\n"), wild=True),

    # The step count.
    mutant("M7a", "the step count is 0 at the first step, and must be 1", "first_step",
           ('state["step"] = 0', 'state["step"] = -1')),
    mutant("M7b", "each step is counted twice", "first_step", (COUNT, 'state["step"] += 2')),
    mutant("M7c", "the step count stays at 1", "six_steps", (COUNT, 'state["step"] = 1')),
    mutant("M8a", "the step count is shared by all parameters", "two_parameters",
           (COUNT, 'state["step"] = self.count = getattr(self, "count", 0) + 1')),
    mutant("M8b", "the step count is shared by all parameters of all optimizers", "two_parameters",
           (COUNT, 'state["step"] = AdamW.count = getattr(AdamW, "count", 0) + 1')),

    # The moments.
    mutant("M9a", "parameters of the same shape share their moments", "two_parameters",
           (ZERO_MEAN, 'state["exp_avg"] = self.__dict__.setdefault(tuple(p.shape), torch.zeros_like(p))'),
           (ZERO_SQUARE, 'state["exp_avg_sq"] = self.__dict__.setdefault(("v", *p.shape), torch.zeros_like(p))')),
    mutant("M9b", "optimizers share their moments", "two_optimizers",
           (ZERO_MEAN, 'state["exp_avg"] = globals().setdefault((id(p), tuple(p.shape)), torch.zeros_like(p))')),
    mutant("M10a", "the first moment starts at the gradient, and must start at zero", "first_step",
           (ZERO_MEAN, 'state["exp_avg"] = p.grad.clone()')),
    mutant("M10b", "the second moment starts at the squared gradient, and must start at zero", "first_step",
           (ZERO_SQUARE, 'state["exp_avg_sq"] = p.grad**2')),
    mutant("M10c", "step count and moments start again at every step", "six_steps",
           ("if not state:", "if True:"), wild=True),
    mutant("M10d", "the moments start again from zero at every step", "six_steps",
           (NAMES, 't, m, v = state["step"], torch.zeros_like(p), torch.zeros_like(p)'), wild=True),
    mutant("M17", "eps is inside the square root", "eps", (ROOT_PLUS_EPS, f"(v + {EPS}).sqrt()")),
    mutant("M18a", "eps is ignored", "eps", (ROOT_PLUS_EPS, "v.sqrt()")),
    mutant("M18b", "eps is ignored: a fixed number stands in its place", "eps",
           (ROOT_PLUS_EPS, "v.sqrt().add_(1e-8)")),
    mutant("M19a", "beta1 and beta2 are swapped", "six_steps",
           (OPTIONS, OPTIONS.replace("beta1, beta2", "beta2, beta1"))),
    mutant("M19b", "the betas are fixed at (0.9, 0.999)", "betas",
           (OPTIONS, f"{OPTIONS}; beta1, beta2 = 0.9, 0.999")),
    mutant("M20a", "the second moment averages |g|, and must average g squared", "first_step",
           (SQUARE, "v.mul_(beta2).add_(p.grad.abs(), alpha=1 - beta2)")),
    mutant("M20b", "the second moment averages m squared, and must average g squared", "first_step",
           (SQUARE, "v.mul_(beta2).addcmul_(m, m, value=1 - beta2)")),
    mutant("M20c", "the square root of the second moment is missing", "first_step", (ROOT_PLUS_EPS, f"v.add({EPS})")),
    mutant("M21", "step() overwrites p.grad", "gradient_unchanged",
           (SQUARE, "v.mul_(beta2).add_(p.grad.mul_(p.grad), alpha=1 - beta2)")),
    mutant("M22", "the first moment is the gradient's own tensor, and is then changed in place", "six_steps",
           (ZERO_MEAN, 'state["exp_avg"] = p.grad')),

    # Weight decay.
    mutant("M11", "weight decay is added to the gradient (L2)", "weight_decay",
           (NAMES, f'{NAMES}; g = p.grad + group["weight_decay"] * p'), (MEAN, MEAN.replace("p.grad", "g")),
           (SQUARE, SQUARE.replace("p.grad", "g")), (DECAY, "pass")),
    mutant("M12", "weight decay is not multiplied by lr", "weight_decay", (RATE, '-group["weight_decay"]')),
    mutant("M13a", "weight decay is missing", "weight_decay", (DECAY, "pass")),
    mutant("M13b", "weight decay has the wrong sign: weights grow", "weight_decay",
           (DECAY, DECAY.replace("-lr", "lr"))),
    mutant("M13c", "weight decay is multiplied by lr twice", "weight_decay", (RATE, f"{RATE} * lr")),
    mutant("M13d", "weight decay is applied twice", "weight_decay", (DECAY, f"{DECAY}; {DECAY}")),
    mutant("M13e", "weight decay is taken from the gradient, and must be taken from p", "weight_decay",
           (DECAY, DECAY.replace("p, alpha", "p.grad, alpha"))),
    mutant("M14", "weight decay is multiplied by the corrected step size, and must be multiplied by lr", "weight_decay",
           (RATE, '-step_size * group["weight_decay"]')),
    mutant("M15a", "weight decay comes before the update", "decay_after_update",
           (MOVE, f"{DECAY}; {MOVE}"), (f"    {DECAY}\n", "    pass\n"), wild=True),
    mutant("M15b", "weight decay comes before the update", "decay_after_update",
           (MOVE, f"old = p.clone(); {MOVE}"), (DECAY, DECAY.replace("p, alpha", "old, alpha")), wild=True),
    mutant("M16a", "weight decay is skipped where the gradient is zero", "zero_gradient",
           ('if group["weight_decay"]:', 'if group["weight_decay"] and p.grad.any():')),
    mutant("M16b", "a parameter without a gradient is decayed", "missing_gradient",
           (MISSING, MISSING.replace("continue", f"{DECAY}; continue"))),

    # Groups, and what is updated.
    mutant("M23a", "lr is read from self.defaults, and must be read from the group", "two_groups",
           (OPTIONS, OPTIONS.replace('group["lr"]', 'self.defaults["lr"]'))),
    mutant("M23b", "weight_decay is read from self.defaults, and must be read from the group", "two_groups",
           (RATE, RATE.replace("group", "self.defaults"))),
    mutant("M23c", "the betas are read from self.defaults, and must be read from the group", "two_groups",
           (OPTIONS, OPTIONS.replace('group["betas"]', 'self.defaults["betas"]'))),
    mutant("M24", "group['lr'] is overwritten by the corrected step size, step after step", "six_steps",
           (SIZE, f'{SIZE}; group["lr"] = step_size'), wild=True),
    mutant("M25", "the sign is wrong: this is gradient ascent", "first_step", (MOVE, MOVE.replace("-step", "step"))),
    mutant("M26a", "p itself does not change: a copy of it is updated", "first_step",
           (NAMES, f"{NAMES}; grad, p = p.grad, p.clone(); p.grad = grad")),
    mutant("M26b", "a new Parameter takes the place of p, which the model never sees", "same_parameter",
           ('for p in group["params"]:', 'for number, p in enumerate(group["params"]):'),
           ("                # The two running", '                grad, p = p.grad, torch.nn.Parameter(p.clone())\n'
            '                group["params"][number], p.grad, self.state[p] = p, grad, state\n'
            '                # The two running')),
    mutant("M69", "a parameter without a gradient is updated, as if its gradient were zero", "missing_gradient",
           ("                if p.grad is None:\n                    continue\n                if p.grad.is_sparse",
            "                if p.grad is None:\n                    p.grad = torch.zeros_like(p)\n"
            "                if p.grad.is_sparse")),
]

VARIANTS = [
    Variant("V1", "optimizer.py", "the efficient form, in float64 on the way", (
        (SIZE, "step_size = lr / (1 - beta1**t); step_size = step_size * (1 - beta2**t) ** 0.5"),)),
    Variant("V2", "optimizer.py", "the form with m-hat and v-hat", ((SIZE, HAT),), ("M5", "M14")),
    Variant("V3a", "optimizer.py", "out of place: p.data = ...", (
        (MEAN, 'm = state["exp_avg"] = beta1 * m + (1 - beta1) * p.grad'),
        (SQUARE, 'v = state["exp_avg_sq"] = beta2 * v + (1 - beta2) * p.grad**2'),
        (MOVE, f"p.data = p.data - step_size * m / (v.sqrt() + {EPS})"))),
    Variant("V3b", "optimizer.py", "p.copy_(...)", (
        (MOVE, f"p.copy_(p - step_size * m / (v.sqrt() + {EPS}))"),)),
    Variant("V4a", "optimizer.py", "decay by mul_(1 - lr * wd)", ((DECAY, f"p.mul_(1 {RATE.replace('-', '- ')})"),)),
    Variant("V4b", "optimizer.py", "decay by subtraction", ((DECAY, f"p -= lr * {RATE[6:]} * p"),)),
    Variant("V5", "optimizer.py", "state by state.get, with other names", (
        (f"                if not state:\n                    state[\"step\"] = 0\n                    {ZERO_MEAN}\n"
         f"                    {ZERO_SQUARE}\n                {COUNT}\n                {NAMES}",
         '                t = state["t"] = state.get("t", 0) + 1\n'
         '                m = state["first"] = state.get("first", torch.zeros_like(p))\n'
         '                v = state["second"] = state.get("second", torch.zeros_like(p))'),)),
    Variant("V6a", "optimizer.py", "torch.no_grad() as a block", (
        ("    @torch.no_grad()\n    def step(self, closure: Callable[[], Any] | None = None) -> Any:\n",
         "    def step(self, closure=None):\n        with torch.no_grad():\n            return self.update(closure)\n\n"
         "    def update(self, closure=None):\n"),)),
    Variant("V6b", "optimizer.py", "p.data, without torch.no_grad()", (
        ("    @torch.no_grad()\n", ""), (MOVE, MOVE.replace("p.", "p.data.", 1)),
        (DECAY, DECAY.replace("p.add_(p,", "p.data.add_(p.data,"))), ("M16b",)),
    Variant("V14a", "optimizer.py", "prints on the way", ((COUNT, f"{COUNT}; print('step', p, p.grad, state)"),)),
    Variant("V15a", "optimizer.py", "one more argument with a default", (
        ("correct_bias: bool = True)", "correct_bias: bool = True, maximize: bool = False)"),)),
]
