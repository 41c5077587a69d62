"""AdamW at the speed of memory: on a CPU the definition's own results, bit for bit, only sooner.

`apply` takes one of three ways for each tensor:

- in pieces: the definition itself, on pieces so small that they stay in the processor's cache from one operation
  to the next. Always possible: any dtype, device and layout.
- the kernel: the definition in a few lines of C, which read and write each number once. For contiguous float32 on
  a CPU, in the threads that PyTorch's own operations run in. It is compiled (in 0.1 s, for this process alone) when
  the process has done so much work in pieces that it earns that back, and used only if it then agrees with the
  definition in every bit; so no result can depend on when, or whether, that happened. Without a compiler ($CC,
  else cc) all stays in pieces.
- many tensors at a time: for CUDA, where starting an operation costs more than most tensors take. Equal to the
  definition to rounding: within 1e-6 of the step, in float32.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import struct
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 65536  # elements a thread: parameter, gradient, moments and a temporary make 1.3 MB, for the level-2 cache
KERNEL_PAYS = 100_000_000  # elements stepped in a process: pieces take 0.2 to 0.4 s longer for them than the kernel
THREAD_PAYS = 50_000  # elements: 0.05 ms for the kernel, several times what waking a thread costs


class Update(NamedTuple):
    """The arguments of the definition: what to do to one tensor."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    beta1: float
    beta2: float
    eps: float
    step_size: float
    decay: float


Definition = Callable[..., None]  # definition(*update)


def apply(definition: Definition, updates: Sequence[Update]) -> None:
    """Do `definition(*update)` for each update; half precision in the moments' dtype, rounded once."""
    for_kernel, for_many, rest = [], [], []
    for update in map(_own_part, updates):
        if _suits_kernel(update):
            for_kernel.append(update)
        elif update.param.is_cuda and update.param.dtype == update.exp_avg.dtype:
            for_many.append(update)
        else:
            rest.append(update)
    if kernel.ready(definition, sum(u.param.numel() for u in for_kernel)):
        kernel.run(for_kernel)
    else:
        rest += for_kernel
    apply_many(for_many)
    for update in rest:
        apply_in_pieces(definition, update)


def apply_in_pieces(definition: Definition, update: Update) -> None:
    """`definition(*update)`, one piece after the other where the tensors can be cut."""
    tensors = update[:4]
    pieces = [tensors]
    size = PIECE * torch.get_num_threads()  # each operation shares its piece among the threads
    if update.param.numel() > size and all(t.is_contiguous() for t in tensors):
        pieces = zip(*(t.view(-1).split(size) for t in tensors), strict=True)
    for param, grad, exp_avg, exp_avg_sq in pieces:
        wide = param.to(exp_avg.dtype)  # `param` itself unless half precision
        definition(wide, grad.to(wide.dtype), exp_avg, exp_avg_sq, *update[4:])
        if wide is not param:
            param.copy_(wide)


def apply_many(updates: Sequence[Update]) -> None:
    """All `updates` in a few operations on lists of tensors."""
    alike = defaultdict(list)
    for u in updates:
        alike[u.param.device, u.param.dtype, u.beta1, u.beta2, u.eps, u.decay].append(u)
    for (_, _, beta1, beta2, eps, decay), group in alike.items():
        params, grads, exp_avgs, exp_avg_sqs = map(list, zip(*(u[:4] for u in group), strict=True))
        torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - beta2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_add_(denominators, eps)
        torch._foreach_addcdiv_(params, exp_avgs, denominators, [-u.step_size for u in group])
        if decay:
            torch._foreach_add_(params, params, alpha=-decay)


# The definition, one number at a time, rounded where torch's operations round it: lerp_ (which starts at the nearer
# end), addcmul_ and add_ multiply and add in one rounding where the processor can, addcdiv_ does not.
SOURCE = r"""
#include <math.h>

typedef struct {
    float *param; const float *grad; float *exp_avg, *exp_avg_sq; long long size;
    float rest1, beta2, rest2, eps, step_size, decay;  /* rest = 1 - beta */
} job;

static inline float multiply_add(float x, float y, float z) {
#ifdef FP_FAST_FMAF
    return fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

typedef struct { const job *jobs; long long count; int (*thread_num)(void), (*num_threads)(void); } work;

/* Of each job, the share of the thread that calls this: all of it if there is no team of threads. */
void adamw(const work *w) {
    const long long part = w->thread_num ? w->thread_num() : 0, parts = w->num_threads ? w->num_threads() : 1;
    for (const job *j = w->jobs; j < w->jobs + w->count; j++) {
        const job c = *j;
        float *restrict param = c.param, *restrict exp_avg = c.exp_avg, *restrict exp_avg_sq = c.exp_avg_sq;
        const float *restrict grad = c.grad;
        const int near = c.rest1 < 0.5f;
        for (long long i = c.size * part / parts; i < c.size * (part + 1) / parts; i++) {
            float g = grad[i];
            float m = exp_avg[i] = multiply_add(near ? c.rest1 : c.rest1 - 1, g - exp_avg[i], near ? exp_avg[i] : g);
            float v = exp_avg_sq[i] = multiply_add(c.rest2 * g, g, c.beta2 * exp_avg_sq[i]);
            float root = 1 / (1 / sqrtf(v));
            float p = param[i] - c.step_size * m / (root + c.eps);
            param[i] = c.decay ? multiply_add(-c.decay, p, p) : p;
        }
    }
}
"""
# For this very processor; no rounding left out; sqrtf and `?` as plain instructions, without errno or traps.
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
JOB = struct.Struct("@4Pq6f")  # the C structs above
WORK = struct.Struct("@Pq2P")


class Team(NamedTuple):
    """Functions of the OpenMP that PyTorch runs its operations with."""

    parallel: Callable[[int, bytes, int, int], None]
    "Calls a function (its address) with data, in a number of threads at once."
    thread_num: int
    "Address of what says which thread of the team is calling,"
    num_threads: int
    "and how many they are."


def find_team() -> Team | None:
    """PyTorch's threads, or None where they are not OpenMP's under GNU's names (other systems than Linux).

    Threads of our own would have to share the cores with PyTorch's, which go on for some milliseconds after every
    operation, waiting for the next: longer than a small model's whole step.
    """
    try:
        process = ctypes.CDLL(None)
        parallel = process.GOMP_parallel
        thread_num, num_threads = (ctypes.cast(function, ctypes.c_void_p).value
                                   for function in (process.omp_get_thread_num, process.omp_get_num_threads))
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint], None
    return Team(parallel, thread_num, num_threads)


class Kernel:
    """The C kernel of this process: not there, or compiled and checked."""

    def __init__(self) -> None:
        self.work_seen = 0  # elements
        self.tried = False
        self.function: Callable[[bytes], None] | None = None
        self.team = find_team()

    def ready(self, definition: Definition, work: int) -> bool:
        """Whether to use the kernel for the next `work` elements; compiles it when that starts to pay."""
        self.work_seen += work
        if not self.tried and self.work_seen >= KERNEL_PAYS:
            self.compile(definition)
        return self.function is not None

    def compile(self, definition: Definition) -> None:
        """Build the kernel, load it, compare it with the definition. If any of this fails, it stays unused."""
        self.tried = True
        # ignore_cleanup_errors: Windows cannot delete a library that is loaded.
        with tempfile.TemporaryDirectory(prefix="adamw-", ignore_cleanup_errors=True) as folder:
            library = os.path.join(folder, "adamw.so")
            try:
                command = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, "-x", "c", "-", "-o", library]
                subprocess.run(command, input=SOURCE.encode(), capture_output=True, timeout=30, check=True)
                self.function = ctypes.CDLL(library).adamw
            except (OSError, ValueError, subprocess.SubprocessError):
                return
        self.function.argtypes = [ctypes.c_char_p]
        self.function.restype = None
        if not self.agrees(definition):
            self.function = None

    def agrees(self, definition: Definition) -> bool:
        """Whether three steps over numbers of every magnitude, zero included, end in the same bits."""
        generator = torch.Generator().manual_seed(0)
        ours = [torch.randn(5003, generator=generator), *torch.zeros(2, 5003)]
        theirs = [t.clone() for t in ours]
        for beta1, decay in ((0.9, 0.0), (0.9, 0.01), (0.3, 0.01)):
            magnitudes = 10 ** torch.empty(5003).uniform_(-30, 20, generator=generator)
            grad = torch.randn(5003, generator=generator) * magnitudes
            grad[::7] = 0
            numbers = (beta1, 0.999, 1e-6, 0.03, decay)
            self.run([Update(ours[0], grad, *ours[1:], *numbers)], threads=2)
            definition(theirs[0], grad, *theirs[1:], *numbers)
        return torch.equal(torch.stack(ours).view(torch.int32), torch.stack(theirs).view(torch.int32))

    def run(self, updates: Sequence[Update], threads: int | None = None) -> None:
        """Apply `updates`, for each of which `_suits_kernel` holds, in as many threads as pay, or in `threads`."""
        if threads is None:
            threads = min(torch.get_num_threads(), 1 + sum(u.param.numel() for u in updates) // THREAD_PAYS)
        jobs = ctypes.create_string_buffer(b"".join(
            JOB.pack(*(t.data_ptr() for t in u[:4]), u.param.numel(),
                     1 - u.beta1, u.beta2, 1 - u.beta2, u.eps, u.step_size, u.decay)
            for u in updates
        ))  # fmt: skip
        address = ctypes.addressof(jobs)
        if self.team and threads > 1:
            work = WORK.pack(address, len(updates), self.team.thread_num, self.team.num_threads)
            self.team.parallel(ctypes.cast(self.function, ctypes.c_void_p), work, threads, 0)
        else:
            self.function(WORK.pack(address, len(updates), 0, 0))
        torch.autograd.graph.increment_version([u.param for u in updates])  # what torch does itself in place


kernel = Kernel()


def _own_part(update: Update) -> Update:
    """Of DTensors, tensors divided among processes (torch's FSDP): the update of the part that this one holds."""
    if not hasattr(update.param, "to_local"):
        return update
    return Update(*(t.to_local() for t in update[:4]), *update[4:])


def _suits_kernel(update: Update) -> bool:
    """Whether the four tensors are plain contiguous float32 memory of one size on the CPU."""
    size = update.param.numel()
    return all(
        t.is_cpu
        and t.dtype == torch.float32
        and t.numel() == size
        and t.is_contiguous()
        and type(t) in (Tensor, torch.nn.Parameter)
        and t.data_ptr()  # 0 for what has no memory, such as torch's lazy zeros
        and not t.is_neg()  # a view whose sign torch turns lazily
        for t in update[:4]
    )
