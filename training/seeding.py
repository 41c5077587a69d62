"""Random streams: each use has its own, so that one never disturbs another.

Shuffling draws from generators made of (seed, epoch) in data.batching. Dropout and initial weights draw from PyTorch's
default generators, which are seeded here and saved in checkpoints; nothing else may draw from them.
"""

import torch


def seed_everything(seed: int) -> None:
    """Seed PyTorch's default generators, CPU and accelerator alike."""
    torch.manual_seed(seed)


def deterministic(on: bool = True) -> None:
    """Ask PyTorch for kernels that give the same bits every time, and an error where there is none."""
    if on != torch.are_deterministic_algorithms_enabled():  # asking imports PyTorch's compiler, a second and more
        torch.use_deterministic_algorithms(on)


def generator_states() -> dict[str, torch.Tensor]:
    """The states of the default generators as uint8 tensors, by device name."""
    states = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"rng.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_generators(states: dict[str, torch.Tensor]) -> None:
    """Undo what happened to the default generators since generator_states()."""
    torch.set_rng_state(states["rng.cpu"])
    for name, state in states.items():
        if name.startswith("rng.cuda.") and int(name.rsplit(".", 1)[1]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(name.rsplit(".", 1)[1]))
