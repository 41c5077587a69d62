"""Sharding divides the weights of a model that is too large for one device among all processes, with PyTorch's FSDP.

A shard is a DTensor: it has the shape of the full weight but holds only this process's rows of it. Every function here
also takes plain tensors and leaves them unchanged.
"""

import sys

import torch
from torch import Tensor, nn


def shard(model: nn.Module, device: torch.device) -> None:
    """Divide every weight of a model among all processes, with its shards on `device`; the model object stays the same.

    Each child of an nn.ModuleList (a block) is gathered just before it runs and freed after it, forward and backward;
    the other weights together as one more unit. Every process must run the model equally often. The blocks move to the
    device one at a time, so the full model never has to fit on it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def forget_groups() -> None:
    """Clear DTensor's cache of sharded operations, which keeps references to process groups."""
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor.debug import _clear_sharding_prop_cache

        _clear_sharding_prop_cache()


def is_shard(tensor: Tensor) -> bool:
    """Tell whether a tensor is this process's shard of a larger one."""
    return hasattr(tensor, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Tell whether a model's weights are divided among processes."""
    return any(is_shard(parameter) for parameter in model.parameters())


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather the full tensor of a shard. All processes must call this together."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def full_tensor_on_main(tensor: Tensor) -> Tensor:
    """Gather it on the CPU of the first process only; the others get an empty tensor."""
    if not is_shard(tensor):
        return tensor
    full = tensor.detach().full_tensor()
    return full.cpu() if torch.distributed.get_rank() == 0 else full.new_empty(0)


def shard_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Cut this process's shard out of a full tensor, divided like `model`, a shard of a tensor of the same shape."""
    if not is_shard(model) or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.detach().to(model.device)
    # Every process has the full tensor, so none has to send it (src_data_rank=None).
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
