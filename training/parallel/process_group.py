"""Training in several processes that torchrun starts: each plans the same batches and computes its share of each."""

import contextlib
import gc
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from common.errors import Stopped, UserError
from common.terminal import say
from training.parallel.sharding import forget_groups, is_sharded
from training.parallel.watchdog import Watchdog
from training.runs.checkpoint import compare_json

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # for a process that is alive: the first one may be saving to a slow disk


class DeviceError(UserError):
    """A device is missing, or cannot be used in this way."""


class Terminated(SystemExit):
    """SIGTERM ends this process outside of training. In training, stop_signals.py saves first."""


class Group:
    """The processes of a run, seen from one of them; this class for one process alone, which has nothing to do."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which prints, writes and holds the run folder."""
        return self.rank == 0

    def own_device(self, device: torch.device) -> torch.device:
        """Choose the one of a machine's devices that this process computes on. DeviceError if there are too few."""
        return device

    def share(self, rows: Sequence[int]) -> tuple[Sequence[int], int]:
        """Return (this process's rows of a batch, how many of them count).

        All processes must run the model equally often, or some would wait for ever. So a process for which no row is
        left gets the first row, which another one counts, and a count of 0.
        """
        mine = rows[self.rank::self.size]
        return (mine, len(mine)) if len(mine) else (rows[:1], 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to train instead of `model`: its gradients are means over all processes."""
        return model

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """Only add up the gradients of a wrapped model inside; the first backward outside averages them."""
        return contextlib.nullcontext()

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Sum each tensor over all processes. The tensors of one call have the same shape."""
        return tensors

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum of each number over all processes."""
        return numbers

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """Call a function on the first process; all return its result: JSON values and tensors, in dicts and lists."""
        return function()

    def require_same(self, value: Any) -> None:
        """Raise UserError unless a JSON value is the same on all processes."""

    def generator_states(self) -> dict[str, Tensor]:
        """Return the states of PyTorch's default random generators, on all processes, as uint8 tensors named rng.*."""
        own = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            own["cuda.0"] = torch.cuda.get_rng_state()
        return {prefix(rank) + name: state for name in own for rank, state in enumerate(self._gather(own[name]))}

    def restore_generators(self, states: dict[str, Tensor]) -> None:
        """Restore what generator_states() returned, perhaps in a run with fewer processes than now."""
        cpu, cuda = prefix(self.rank) + "cpu", prefix(self.rank) + "cuda.0"
        torch.set_rng_state(states.get(cpu, states["rng.cpu"]))
        if cpu not in states:
            self.separate_streams()
        elif cuda in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[cuda])

    def separate_streams(self) -> None:
        """Give every process random numbers of its own, for dropout; the first process keeps its generator's state."""

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, by rank."""
        return [tensor]


ALONE = Group()


@contextlib.contextmanager
def process_group(advice: str) -> Iterator[Group]:
    """Join the other processes that torchrun has started, if there are any, and give the Group of all.

    Only the first one prints. Whatever ends one process ends all, with one message and `advice`: how to start again.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    with Processes(advice) as group, open(os.devnull, "w") as nowhere:
        with contextlib.nullcontext() if group.is_main else contextlib.redirect_stdout(nowhere):
            yield group


class Processes(Group):
    """Several processes, which find each other through torchrun's environment variables."""

    def __init__(self, advice: str) -> None:
        import torch.distributed as dist
        import torch.distributed.nn  # imported later, it would keep the group alive as a default argument

        super().__init__(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        self.dist, self.advice, self.device = dist, advice, torch.device("cpu")
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # each restart needs names of its own in the store
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=2)))
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                    store=dist.PrefixStore(f"group {restarts}", store), timeout=TIMEOUT,
                                    rank=self.rank, world_size=self.size)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"process {self.rank} of {self.size} cannot reach the others: "
                            f"{str(error)[:200]}") from error
        store = dist.PrefixStore(f"watchdog {restarts}", store.clone())
        self.watchdog = Watchdog(store, self.rank, self.size, advice)

    def __enter__(self) -> "Processes":
        self._before = signal.signal(signal.SIGTERM, terminate)
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        """Leave together: to the others, and to torchrun, a process that ends early looks like one that died."""
        # A SIGTERM from torchrun would only cut off the message of a process that ends by itself now.
        signal.signal(signal.SIGTERM, self._before if error is None else signal.SIG_IGN)

        # Wait for all, or report what went wrong.
        try:
            if error is None or isinstance(error, Stopped):
                self.highest(0)
        except RuntimeError as lost:
            self._report_once(lost)
            raise
        if error is not None:
            self._report_once(error)
        self.watchdog.stop()

        # End gloo's threads, which live as long as the group (a wrapped model refers to it): one that still holds a
        # tensor while Python shuts down would abort the process.
        if error is None:
            self.dist.destroy_process_group()
            forget_groups()
            gc.collect()

    def _report_once(self, error: BaseException) -> None:
        """Return on the one process that must report an error; end the others here, silently."""
        if isinstance(error, Stopped):
            if not self.is_main:
                sys.exit(error.exit_status)
        elif not self.watchdog.claim():
            sys.exit(1)
        elif isinstance(error, Terminated):
            say("ended by SIGTERM, which torchrun sends when it is asked to stop or another process has died.\n"
                f"{self.advice}", error=True)
        elif isinstance(error, self.dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            # The connection to the others is lost: gloo raises plain RuntimeErrors.
            raise UserError("another process of this run has died, or cannot be reached any more.\n"
                            f"{self.advice}") from error

    def own_device(self, device: torch.device) -> torch.device:
        if device.type == "mps":
            raise DeviceError("several processes cannot share an mps device: start one process, or use the CPU")
        if device.type == "cuda":
            number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
            if number >= there:
                raise DeviceError("each process needs a CUDA device of its own, and this machine has only "
                                  f"{there}: let torchrun start {there} processes on it")
            torch.cuda.set_device(number)
            device = torch.device("cuda", number)
        self.device = device
        return device

    def wrap(self, model: nn.Module) -> nn.Module:
        if is_sharded(model):
            return model  # FSDP averages the gradients
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None,
                                       gradient_as_bucket_view=True)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager:
        # A sharded model has no no_sync: each process would have to hold its full gradient.
        return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        together = torch.stack(tensors)  # one message; integers travel as floats if there are floats
        self.dist.all_reduce(together)
        return tuple(total.to(tensor.dtype) for total, tensor in zip(together, tensors, strict=True))

    def highest(self, *numbers: int) -> tuple[int, ...]:
        tensor = torch.tensor([int(number) for number in numbers])  # on the CPU, so by gloo: it waits for no GPU
        self.dist.all_reduce(tensor, self.dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        if not self.is_main:
            length = self._broadcast(torch.tensor(0))
            text = self._broadcast(torch.empty(int(length), dtype=torch.uint8))
            return insert_tensors(json.loads(text.numpy().tobytes()), self._broadcast)
        value, tensors = function(), []
        text = json.dumps(extract_tensors(value, tensors)).encode()
        self._broadcast(torch.tensor(len(text)))
        self._broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        for tensor in tensors:
            self._broadcast(tensor.detach().cpu().contiguous())
        return value

    def _broadcast(self, tensor: Tensor) -> Tensor:
        self.dist.broadcast(tensor, 0)
        return tensor

    def require_same(self, value: Any) -> None:
        value = json.loads(json.dumps(value, default=str))
        if differences := compare_json(self.broadcast_from_main(lambda: value), value):
            raise UserError(f"process {self.rank} was not started like process 0: {'; '.join(differences[:6])}.\n"
                            "Give every machine the same command, files and weights")
        self.highest(0)  # wait until all processes have compared

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        self.dist.all_gather(gathered, tensor)
        return gathered

    def separate_streams(self) -> None:
        if not self.is_main:
            digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes() + str(self.rank).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def terminate(number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM with an exception, so that Processes can print a message. Exit status: 143, as shells expect."""
    raise Terminated(128 + number)


def prefix(rank: int) -> str:
    """Return how the names of a process's generator states begin; the first one's are as in a run of one process."""
    return "rng." if rank == 0 else f"rng.{rank}."


def extract_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """Replace every tensor in nested dicts and lists by {"tensor": [dtype, shape]} and append it to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": [str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, dict):
        return {key: extract_tensors(item, tensors) for key, item in value.items()}
    return [extract_tensors(item, tensors) for item in value] if isinstance(value, (list, tuple)) else value


def insert_tensors(value: Any, fill: Callable[[Tensor], Tensor]) -> Any:
    """Undo extract_tensors, with the tensors that `fill` makes of empty ones; it gets them in the same order."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            dtype, shape = value["tensor"]
            return fill(torch.empty(shape, dtype=getattr(torch, dtype)))
        return {key: insert_tensors(item, fill) for key, item in value.items()}
    return [insert_tensors(item, fill) for item in value] if isinstance(value, list) else value
