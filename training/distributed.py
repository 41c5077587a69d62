"""Training in several processes, started by torchrun; and the one process that needs none of this.

    torchrun --nproc_per_node 2 classifier.py ...

Every process has all the data, plans the same order of batches and takes its share of each batch; gradients are
averaged by torch's DistributedDataParallel. So the weights are those of one process, up to rounding. The rest of the
program asks a Group; the group of one process, ALONE, does nothing, and torch.distributed is only used beyond it.
"""

import contextlib
import gc
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from common.errors import Stopped, UserError
from training.likeness import differences
from training.nested import with_tensors, without_tensors
from training.seeding import generator_states, restore_generators
from training.sharding import forget_groups, is_sharded
from training.watch import KEPT, Watch

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for one that is alive: the first one may be saving to a slow disk."""


class Terminated(Stopped):
    """This process was told to end."""


class Group:
    """The processes of a run, seen from one of them. This class is the group of one; `Processes` does the work."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, writes and holds the run folder."""
        return self.rank == 0

    def own_device(self, device: torch.device) -> torch.device:
        """Which of a machine's devices this process computes on."""
        return device

    def share(self, rows: Sequence[int]) -> tuple[Sequence[int], int]:
        """(this process's rows, how many of them count).

        All processes must run the model equally often, or some would wait for ever. So one for which no row is left
        gets the first row, of which another process takes care, and a count of 0.
        """
        mine = rows[self.rank::self.size]
        return (mine, len(mine)) if len(mine) else (rows[:1], 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to train in place of the model: its gradients are the mean over all processes."""
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """In here, gradients of a wrapped model only add up; they are averaged by the first backward outside."""
        return nullcontext()

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each tensor, all of one shape, summed over all processes."""
        return tensors

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """The highest value that any process has, of each number."""
        return numbers

    def from_main(self, function: Callable[[], T]) -> T:
        """What `function` returns on the first process: JSON values and tensors, in dicts and lists."""
        return function()

    def require_same(self, value: Any) -> None:
        """UserError if a JSON value is not the same on all processes."""

    def generator_states(self) -> dict[str, Tensor]:
        """The states of the random generators of all processes, named rng.*."""
        return generator_states()

    def restore_generators(self, states: dict[str, Tensor]) -> None:
        """Undo what happened since generator_states(), which may have been those of another number of processes."""
        restore_generators(states)

    def separate_streams(self) -> None:
        """Give every process dropout of its own; the first one keeps what it has."""


ALONE = Group()


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """`with joined() as group:` works together with the other processes that torchrun has started, if it has.

    Outside the first process nothing is printed. Whatever ends one process ends them all, with one message.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    group = Processes()
    with group, open(os.devnull, "w") as nowhere:
        with nullcontext() if group.is_main else contextlib.redirect_stdout(nowhere):
            yield group


class Processes(Group):
    """Several processes, which have found each other by torchrun's environment variables."""

    def __init__(self) -> None:
        import torch.distributed as dist
        import torch.distributed.nn  # later it would make the group its functions' default, and so hold it

        self.dist = dist
        super().__init__(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        self.device = torch.device("cpu")
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=2)))
            restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # of which each begins with a clean store
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                    store=dist.PrefixStore(f"group {restarts}", store), timeout=TIMEOUT,
                                    rank=self.rank, world_size=self.size)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"process {self.rank} of {self.size} cannot reach the others: "
                            f"{str(error)[:200]}") from error
        self.watch = Watch(dist.PrefixStore(f"watch {restarts}", store.clone()), self.rank, self.size)

    def __enter__(self) -> "Processes":
        self._before = signal.signal(signal.SIGTERM, terminated)
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        """Leave together: a process that ends early looks to the others, and to torchrun, like one that died."""
        # From here on the process ends by itself; torchrun's SIGTERM would only take the word from it.
        signal.signal(signal.SIGTERM, self._before if error is None else signal.SIG_IGN)
        try:
            if error is None or type(error) is Stopped:
                self.highest(0)
        except RuntimeError as lost:
            self._tell_once(lost)
            raise
        if error is not None:
            self._tell_once(error)
        self.watch.stop()
        if error is None:
            # gloo's threads end with the last reference to the group, which a wrapped model has too. One that is still
            # busy with a tensor while Python itself ends would abort the process.
            self.dist.destroy_process_group()
            forget_groups()
            gc.collect()

    def _tell_once(self, error: BaseException) -> None:
        """Return for the one process that is to report an error; end the others here, without a word."""
        if type(error) is Stopped:
            if not self.is_main:
                sys.exit(error.exit_status)
        elif not self.watch.claim():
            sys.exit(1)
        elif self._lost_another(error):
            raise UserError(f"another process of this run has died, or cannot be reached any more.\n{KEPT}") from error

    def _lost_another(self, error: BaseException) -> bool:
        """Whether an error comes from the connection to the other processes. gloo raises plain RuntimeErrors."""
        return isinstance(error, self.dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))

    def own_device(self, device: torch.device) -> torch.device:
        if device.type == "mps":
            raise UserError("several processes cannot share an mps device; use --device cpu, or one process")
        if device.type == "cuda":
            number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
            if number >= there:
                raise UserError(f"each process needs a CUDA device, and there are {there} here: "
                                f"give torchrun --nproc_per_node {there}")
            torch.cuda.set_device(number)
            device = torch.device("cuda", number)
        self.device = device
        return device

    def wrap(self, model: nn.Module) -> nn.Module:
        if is_sharded(model):
            return model  # which averages its gradients by itself
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None,
                                       gradient_as_bucket_view=True)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        # A sharded model has no such thing: it would have to hold its whole gradient.
        return model.no_sync() if hasattr(model, "no_sync") else nullcontext()

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        together = torch.stack(tensors)  # in one message; whole numbers travel as floats if there are floats
        self.dist.all_reduce(together)
        return tuple(total.to(tensor.dtype) for total, tensor in zip(together, tensors, strict=True))

    def highest(self, *numbers: int) -> tuple[int, ...]:
        tensor = torch.tensor([int(number) for number in numbers])  # by gloo: no GPU is waited for
        self.dist.all_reduce(tensor, self.dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def from_main(self, function: Callable[[], T]) -> T:
        if not self.is_main:
            length = self._broadcast(torch.tensor(0))
            text = self._broadcast(torch.empty(int(length), dtype=torch.uint8))
            return with_tensors(json.loads(text.numpy().tobytes()), self._broadcast)
        value, tensors = function(), []
        text = json.dumps(without_tensors(value, tensors)).encode()
        self._broadcast(torch.tensor(len(text)))
        self._broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        for tensor in tensors:
            self._broadcast(tensor.detach().cpu().contiguous())
        return value

    def _broadcast(self, tensor: Tensor) -> Tensor:
        """The first process's values, written into everyone's tensor."""
        self.dist.broadcast(tensor, 0)
        return tensor

    def require_same(self, value: Any) -> None:
        value = json.loads(json.dumps(value, default=str))
        differing = differences(self.from_main(lambda: value), value)
        if differing:
            raise UserError(f"process {self.rank} was not started like process 0: {'; '.join(differing[:6])}.\n"
                            "Give every machine the same command, files and weights")
        self.highest(0)  # nobody goes on before it is known of all

    def generator_states(self) -> dict[str, Tensor]:
        own = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda.0"] = torch.cuda.get_rng_state(self.device)
        states = {}
        for name, state in own.items():
            everyones = [torch.empty_like(state) for _ in range(self.size)]
            self.dist.all_gather(everyones, state)
            states |= {f"{prefix(rank)}{name}": state for rank, state in enumerate(everyones)}
        return states

    def restore_generators(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["rng.cpu"])
        own = prefix(self.rank)
        if f"{own}cpu" not in states:
            self.separate_streams()
            return
        torch.set_rng_state(states[f"{own}cpu"])
        if self.device.type == "cuda" and f"{own}cuda.0" in states:
            torch.cuda.set_rng_state(states[f"{own}cuda.0"], self.device)

    def separate_streams(self) -> None:
        if not self.is_main:
            digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes() + str(self.rank).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def terminated(_number: int, _frame: object) -> NoReturn:
    """What SIGTERM does outside of training, where nobody waits for it to save: a message in place of a silent end."""
    raise Terminated("ended by SIGTERM, which torchrun sends when it is asked to stop or another process has died.\n"
                     f"{KEPT}", 128 + signal.SIGTERM)


def prefix(rank: int) -> str:
    """What the names of a process's random generators begin with; the first one's are those of a process alone."""
    return "rng." if rank == 0 else f"rng.{rank}."
