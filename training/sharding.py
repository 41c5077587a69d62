"""Models too large for one device: torch's FSDP, which leaves each process a part of every weight.

A part is a DTensor: a tensor that has the whole one's shape but holds only this process's rows of it. Everything here
takes plain tensors too, and leaves them as they are, so that the rest need not know which kind it has.
"""

import sys

import torch
from torch import Tensor, nn


def shard(model: nn.Module, device: torch.device) -> None:
    """Divide every weight of a model among all processes, its parts on `device`; the model stays the same object.

    Each child of an nn.ModuleList (a block) is gathered just before it runs and dropped after it, forward and backward;
    what is left over (embeddings, last norm, head) is one more such unit. Every process must run the model equally
    often. Blocks move to the device one at a time, so that the whole model never has to fit.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def forget_groups() -> None:
    """Let go of the groups of processes that DTensor remembers with how each operation is divided."""
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor.debug import _clear_sharding_prop_cache

        _clear_sharding_prop_cache()


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is only this process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's weights are divided among processes."""
    return any(is_part(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor that a part belongs to. All processes must ask for it together."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def whole_to_save(tensor: Tensor) -> Tensor:
    """The whole tensor, on the first process's CPU; the other processes, which save nothing, get an empty one."""
    if not is_part(tensor):
        return tensor
    full = tensor.detach().full_tensor()
    return full.cpu() if torch.distributed.get_rank() == 0 else full.new_empty(0)


def divided_like(tensor: Tensor, model: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided like `model`, which has its shape."""
    if not is_part(model) or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.detach().to(model.device)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)  # all have the whole
