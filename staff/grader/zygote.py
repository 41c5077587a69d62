"""The process that has imported PyTorch once; it forks a confined child for each test. Holds no secrets.

Started by sandbox.py as `python -I -B zygote.py FD SETTINGS`. On the socket FD, this process first says which level of
confinement holds, then that it is ready. It is sent one task at a time, with three file descriptors: the request (npz),
the reply (a pipe) and what the code prints (a pipe); "stop" ends the task. It answers when no process of it is left.
"""

import contextlib
import fcntl
import gc
import importlib.abc
import importlib.machinery
import json
import os
import select
import signal
import socket
import sys
import traceback
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if not ROOT.is_relative_to(os.path.realpath(entry)))]
from staff.grader import confine, kernel, leftovers, namespaces  # noqa: E402

sys.path.pop(0)  # a test's process finds nothing of the grader
for _name in [name for name in sys.modules if name.split(".")[0] == "staff"]:
    del sys.modules[_name]

DISK = 256_000_000  # bytes that a test may have in its scratch folder

STAND_INS = {
    "IPython", "accelerate", "boto3", "datasets", "evaluate", "explainaboard_client", "filelock", "huggingface_hub",
    "importlib_metadata", "ipdb", "joblib", "lightning", "loguru", "matplotlib", "nltk", "pandas", "peft", "pooch",
    "psutil", "regex", "requests", "rich", "sacrebleu", "safetensors", "scipy", "seaborn", "sentencepiece", "sklearn",
    "spacy", "tensorboard", "tensorboardX", "tiktoken", "tokenizers", "torchmetrics", "torchtext", "torchvision",
    "tqdm", "transformers", "wandb", "yaml",
}
"Packages that a student's file may import and that no test needs."


class StandIn(type):
    """A class in the place of anything in an absent package: it can be imported, inherited from and annotated with."""

    def __getattr__(cls, name: str) -> "StandIn":
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(f"{cls.__name__}.{name}", (), {"__module__": cls.__module__})

    def __call__(cls, *_: object, **__: object) -> None:
        raise RuntimeError(f"{cls.__module__}.{cls.__name__} is not there when a submission is graded")

    def __getitem__(cls, _: object) -> "StandIn":
        return cls


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a module of stand-ins for a name in STAND_INS, unless the submission has a file of that name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        first = name.partition(".")[0]
        if first not in STAND_INS or any(os.path.exists(end) for end in (first, f"{first}.py")):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        def attribute(name: str) -> StandIn:
            if name.startswith("__"):
                raise AttributeError(name)
            return StandIn(name, (), {"__module__": module.__name__})

        module.__getattr__ = attribute


def main() -> None:
    """Find out what holds, import PyTorch, and answer requests until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    for uid in settings["uids"]:  # a zygote before this one may have died and left some
        leftovers.kill_user(uid)
    sources = {path.stem: path.read_text() for path in sorted((HERE / "probes").glob("*.py"))}
    level = confine.prepare(settings["levels"], *settings["uids"][:1])
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # after it, only root may write in /proc/self
    control.send(json.dumps([level.held, level.missing, level.landlock]).encode())

    # Torch would import torch._dynamo for 1.7 s in each child that builds an optimizer, to leave these methods alone.
    import torch

    torch.set_num_threads(1)
    for method in vars(torch.optim.Optimizer).values():
        if inner := getattr(method, "__wrapped__", None):
            inner.__dynamo_disable = inner
    with torch.autograd.profiler.record_function("step"):  # imports what each optimizer's first step would
        pass

    sys.meta_path.insert(0, StandInFinder())
    probes = {stem: load_probe(stem, source) for stem, source in sources.items()}
    gc.collect()
    gc.freeze()  # so that no child's collector touches, and thereby copies, what is shared
    control.send(b"ready")
    while task := receive(control):
        serve(control, task, level.held, probes)


def load_probe(stem: str, source: str) -> types.ModuleType:
    """Import a file of probes/ under a name that no submission can take."""
    module = types.ModuleType(f"_probe_{stem}")
    sys.modules[module.__name__] = module
    exec(compile(source, f"{stem}.py", "exec"), module.__dict__)
    return module


def receive(control: socket.socket) -> dict | None:
    """Return the next task, with its file descriptors; None when the socket is closed."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 65536, 3)
        if not data:
            return None
        if data != b"stop":  # of a task that ended before this came
            return json.loads(data) | {"descriptors": descriptors}


def serve(control: socket.socket, task: dict, held: tuple[str, ...], probes: dict[str, types.ModuleType]) -> None:
    """Do one task: fork a child, wait for it or end it, end all that it left, and report how it went."""
    uid, processes = task["uid"], None
    if uid is not None:
        processes = 64
    elif os.geteuid() != 0:  # root's processes are not counted
        rows = leftovers.processes().values()
        processes = 64 + sum(row["threads"] for row in rows if row["uid"] == os.geteuid())
    plan = confine.Plan(held, task["folder"], task["scratch"], task["seconds"], uid, processes)

    faults, fault_end = os.pipe()
    pid = namespaces.fork_in_new_pid_namespace() if "pid" in held else os.fork()
    if pid == 0:
        child(plan, task["probe"], probes, *task["descriptors"], fault_end)
    for descriptor in (*task["descriptors"], fault_end):
        os.close(descriptor)
    with os.fdopen(faults, "rb") as file:  # ends when the child is confined
        fault = file.read().decode("utf-8", "replace")

    why = wait(pid, control, task["seconds"], task["memory"], task["scratch"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        leftovers.end_all(uid)
        if uid is not None and "mount" not in held:
            leftovers.remove_of_user(uid)
    except TimeoutError as error:
        fault = str(error)
    with contextlib.suppress(BrokenPipeError):
        control.send(json.dumps({"fault": fault, "why": why, "status": status}).encode())


def wait(pid: int, control: socket.socket, seconds: float, memory: int, scratch: str) -> str:
    """Wait until the child ends, "stop" comes, or it takes too much; say what it took too much of."""
    handle = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([handle, control], [], [], 0.1)
            if handle in ready:
                return ""
            if ready:
                control.recv(64)
                return ""
            table = leftovers.processes()
            shared = table[os.getpid()]["memory"]  # what a child holds together with this process
            below = leftovers.descendants(os.getpid(), table)
            if sum(max(table[other]["memory"] - shared, 0) for other in below) > memory:
                return "memory"
            if leftovers.processor_seconds(below) > seconds:
                return "time"
            if leftovers.is_larger(scratch, DISK):
                return "disk"
    finally:
        os.close(handle)


def child(plan: "confine.Plan", probe: str, probes: dict[str, types.ModuleType], *descriptors: int) -> None:
    """Confine this process, run one probe on the staged files, write its reply, and end; never returns."""
    code = 1
    try:
        # The descriptors: nothing to read, what is printed twice, the request, the reply, faults of the grader.
        os.setsid()
        request, reply, printed, faults = (fcntl.fcntl(number, fcntl.F_DUPFD, 32) for number in descriptors)
        for number, source in enumerate((printed, printed, request, reply, faults), start=1):
            os.dup2(source, number)
        os.closerange(6, 4096)
        os.environ.update(HOME=plan.scratch, TMPDIR=plan.scratch, USER="student", LOGNAME="student")
        try:
            confine.confine(plan)
        except BaseException as error:
            os.write(5, f"confinement failed: {error}".encode())
            return
        os.close(5)

        # From here on, nothing that this process says is trusted.
        sys.path.insert(0, plan.staged)
        sys.argv = [""]
        head, body = run(probe, probes, plan.staged)
        with os.fdopen(4, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            for part in body:
                file.write(part)
        code = 0
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def run(probe: str, probes: dict[str, types.ModuleType], folder: str) -> tuple[dict, list[bytes]]:
    """Call a probe; return the head of the reply (how it went; name, type and shape of each array) and the bytes."""
    import numpy as np

    component, _, name = probe.partition(".")
    try:
        with os.fdopen(3, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            inputs = dict(arrays)
        outputs = {key: np.ascontiguousarray(value).reshape(np.shape(value))
                   for key, value in getattr(probes[component], name)(inputs).items()}
        if bad := [key for key, value in outputs.items() if value.dtype.hasobject]:
            raise TypeError(f"{', '.join(bad)} is not made of numbers")
        head = [[key, value.dtype.str, value.shape] for key, value in outputs.items()]
        return {"error": None, "arrays": head}, [value.tobytes() for value in outputs.values()]
    except BaseException as error:  # whatever a submission raises is an answer
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(folder)]
        place = f"{os.path.relpath(frames[-1].filename, folder)}:{frames[-1].lineno}" if frames else ""
        if isinstance(error, SyntaxError) and str(error.filename).startswith(folder):
            place = f"{os.path.relpath(error.filename, folder)}:{error.lineno}"
        kind = "not implemented" if isinstance(error, NotImplementedError) else type(error).__name__
        return {"error": kind, "message": str(error).replace(f"{folder}/", "")[:500], "place": place}, []


if __name__ == "__main__":
    main()
