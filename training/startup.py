"""Leave out of a start what it does not need."""

from torch.optim import Optimizer


def leave_compiler_out() -> None:
    """Let no optimizer import PyTorch's compiler: more than a second of each start, and nothing here is compiled.

    PyTorch wraps some of an optimizer's methods so that its compiler passes them over; the wrapper imports the compiler
    to say so. The methods themselves stay as they are.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        method = getattr(Optimizer, name)
        setattr(Optimizer, name, getattr(method, "__wrapped__", method))
