"""The sandbox against code that does not want to be tested. Each piece of code stands for a submission's file."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.grader import leftovers, namespaces
from staff.grader.case import Request
from staff.grader.confine import python_folders
from staff.grader.sandbox import Reply, Sandbox, SandboxError, plain, read_reply

INPUTS = {"C": 4, "nh": 1, "dropout": 0.0, "train": False, "x": np.zeros((1, 1, 4), np.float32),
          "mask": np.zeros((1, 1, 1, 1), np.float32)}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(box: Sandbox, code: str, **files: str) -> Reply:
    """Run code where a submission's file is imported."""
    staged = {"models/config.py": code, **{name.replace("__", "/") + ".py": text for name, text in files.items()}}
    return box.run({name: text.encode() for name, text in staged.items()}, Request("attention.forward", INPUTS))


def honest(box: Sandbox) -> Reply:
    """Run a submission that does as it is told: x comes back."""
    return run(box, "class GPT2Config:\n    def __init__(self, **_): pass",
               modules__attention="import torch\nclass CausalSelfAttention(torch.nn.Module):\n"
                                  "    def __init__(self, config): super().__init__()\n"
                                  "    def forward(self, x, mask): return x")


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    """A sandbox with no level but the lowest."""
    with Sandbox(allow=("L0",)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def level_1() -> Iterator[Sandbox]:
    """A sandbox in which each test has a user of its own, and nothing more."""
    with Sandbox(allow=("L0", "L1")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module", params=["box", "bare"])
def any_box(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox with every level, and one with the lowest."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def still_works(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: no process and no folder is left, and the next submission is tested as if nothing was."""
    name = next((name for name in ("any_box", "bare", "level_1", "box") if name in request.fixturenames), None)
    folders: list[str] = []
    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *how, **ever: folders.append(make(*how, **ever)) or folders[-1])
    yield
    if name:
        sandbox = request.getfixturevalue(name)
        assert leftovers.descendants(sandbox.process.pid, leftovers.processes()) == set()
        assert [folder for folder in folders if os.path.exists(folder)] == []
        assert honest(sandbox).arrays["y"].tolist() == INPUTS["x"].tolist()


ENDS = {
    "leaves": ("import os; os._exit(0)", "no reply", "exit status 0"),
    "exits": ("raise SystemExit(3)", "SystemExit", "3"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "no reply", "signal 11"),
    "not_done": ("raise NotImplementedError('write me')", "not implemented", "write me"),
    "recursion": ("def f(): f()\nf()", "RecursionError", "maximum recursion depth"),
    "syntax": ("def f(:", "SyntaxError", "invalid syntax"),
    "too_much_memory": ("x = bytearray(5 << 30)", "MemoryError", ""),
    "type_time": ("class time(Exception): pass\nraise time()", "bad reply", ""),
    "type_not_run": ("raise type('not run', (Exception,), {})()", "bad reply", ""),
    "closes_everything": ("import os; os.closerange(0, 256)", "no reply", ""),
    "fills_a_file": ("import os\nopen(os.environ['TMPDIR'] + '/x', 'wb').write(bytes(100 << 20))", "OSError", ""),
    "replies_nothing": ("import os; os.write(4, b'\\n'); os._exit(0)", "bad reply", ""),
    "replies_garbage": ("import os; os.write(4, b'\\x93NUMPY' * 1000); os._exit(0)", "bad reply", ""),
    "replies_deep": ("import os; os.write(4, b'[' * 90000 + b'\\n'); os._exit(0)", "bad reply", ""),
    "replies_twice": ("import os; os.write(4, b'{\"error\": null, \"arrays\": []}\\n')\n1 / 0", "bad reply", ""),
    "replies_1_GB": ("import os\nwhile True: os.write(4, bytes(1 << 20))", "bad reply", ""),
    "prints_without_end": ("while True: print('x' * 100_000)", "output", "printed too much"),
}


@pytest.mark.parametrize("name", ENDS)
def test_code_that_gives_no_answer_is_described(any_box: Sandbox, name: str) -> None:
    code, error, message = ENDS[name]
    reply = run(any_box, code)
    assert (reply.arrays, reply.error) == (None, error)
    assert message in reply.message


def test_place_is_the_line_of_the_submission(box: Sandbox) -> None:
    assert run(box, "def f():\n    raise ValueError('here')\nf()").place == "models/config.py:2"
    assert run(box, "x = 1\ndef f(:").place == "models/config.py:2"


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "import os, signal\n"
                                  "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
                                  "import threading, time\n[threading.Thread(target=time.sleep, args=(60,)).start() "
                                  "for _ in range(5)]\ntime.sleep(60)"])
def test_code_that_does_not_end_is_ended(any_box: Sandbox, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_box, "seconds", 0.5)
    reply = run(any_box, code)
    monkeypatch.undo()
    assert reply.error == "time"


@pytest.mark.parametrize("code", ["while True: pass", "import os\nfor _ in range(3): os.fork()\n"
                                  "while True: pass"])
def test_processor_time_is_limited_whatever_the_clock_says(
        any_box: Sandbox, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: work in forks that nobody counts."""
    monkeypatch.setattr("staff.grader.sandbox.CLOCK", 1000)
    monkeypatch.setattr(any_box, "seconds", 0.5)
    reply = run(any_box, code)
    monkeypatch.undo()
    assert reply.error == "time"


def test_a_slow_machine_costs_nothing(any_box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: right code that fails because other work on the machine keeps it waiting."""
    monkeypatch.setattr(any_box, "seconds", 0.5)
    reply = run(any_box, "import time; time.sleep(1.2); print('done')")
    monkeypatch.undo()
    assert reply.error != "time" and reply.printed == "done\n"


def test_the_deadline_is_not_the_tests_fault(any_box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a test that the end of the whole run cuts off, and that then counts as too slow."""
    monkeypatch.setattr(any_box, "deadline", time.monotonic() + 0.5)
    reply = run(any_box, "import time; time.sleep(60)")
    monkeypatch.undo()
    assert reply.error == "not run"


def test_printed_text_is_cut_and_cannot_steer_a_terminal(any_box: Sandbox) -> None:
    reply = run(any_box, "print('\\x1b[2J\\x00\\u202eabc\\t|', 'x' * 1_000_000)")
    assert reply.printed.startswith("\\x1b[2J\\x00\\u202eabc    | xxx")
    assert len(reply.printed) <= 20_100


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(0)
"""
BOMB = """
import os, time
end = time.time() + 0.5
while time.time() < end:
    try: os.fork()
    except OSError: pass
"""
HOGS = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = b'x' * (30 << 20)
        time.sleep(60)
time.sleep(60)
"""


def test_daemons_do_not_outlive_their_test(any_box: Sandbox) -> None:
    run(any_box, DAEMON + "print('hello')")
    # still_works() looks for them.


def test_fork_bomb_is_ended(box: Sandbox) -> None:
    run(box, BOMB)


@root_only
def test_fork_bomb_is_ended_without_namespaces(level_1: Sandbox) -> None:
    """Only the sweep ends the processes."""
    assert str(level_1.level) == "L0 L1"
    run(level_1, BOMB)
    users = {row["uid"] for row in leftovers.processes().values()}
    assert users.isdisjoint(level_1.uids)


@root_only
def test_shared_memory_and_files_elsewhere_are_removed_without_namespaces(level_1: Sandbox) -> None:
    code = ("import ctypes\nopen('/dev/shm/left', 'w'); open('/tmp/left', 'w')\n"
            "print(ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0)")
    assert run(level_1, code).printed == "True\n"
    assert not os.path.exists("/dev/shm/left") and not os.path.exists("/tmp/left")
    rows = Path("/proc/sysvipc/shm").read_text().split("\n")[1:-1]
    assert {int(row.split()[7]) for row in rows}.isdisjoint(level_1.uids)


def test_memory_bomb_of_many_processes_is_ended(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stays below its own limit; the sum does not."""
    monkeypatch.setattr(box, "memory", 100 << 20)
    assert run(box, HOGS).error == "memory"
    monkeypatch.undo()


def test_a_disk_bomb_of_many_files_is_ended(bare: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stays below the limit of one file; the sum does not. Without namespaces nothing else bounds it."""
    code = ("import os, time\nfor number in range(40):\n"
            "    open(os.path.join(os.environ['TMPDIR'], str(number)), 'wb').write(bytes(30_000_000))\n"
            "time.sleep(5)")
    assert run(bare, code).error == "disk"


def test_a_message_does_not_hold_the_folder(box: Sandbox) -> None:
    """Its name is random: two runs of one submission would differ."""
    assert run(box, "raise ValueError(__file__)").message == "models/config.py"


def test_a_zygote_that_dies_is_replaced(box: Sandbox) -> None:
    before = box.process.pid
    box.process.kill()
    box.process.wait()
    assert honest(box).arrays
    assert box.process.pid != before


@root_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_test_that_ends_or_stops_the_zygote_gets_no_reply(
        bare: Sandbox, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At level 0 nothing keeps it from that."""
    monkeypatch.setattr("staff.grader.sandbox.GRACE", 1.0)
    monkeypatch.setattr(bare, "seconds", 0.5)
    reply = run(bare, "import os, time; print(os.getpid(), flush=True)\n"
                      f"os.kill(os.getppid(), {number:d}); time.sleep(60)")
    monkeypatch.undo()
    assert (reply.error, reply.message) == ("no reply", "the sandbox's process was ended by the test")
    deadline = time.monotonic() + 30
    while int(reply.printed) in leftovers.processes():  # it ends with the zygote, at once or nearly so
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupted_request_does_not_answer_the_next(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(box, "_listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        honest(box)
    monkeypatch.undo()
    assert honest(box).arrays


FORBIDDEN = {
    "kill_zygote": "os.kill(ZYGOTE, 9)",
    "stop_zygote": "os.kill(ZYGOTE, signal.SIGSTOP)",
    "kill_all": "os.kill(-1, 9)",
    "internet": "socket.socket(socket.AF_INET)",
    "internet6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "unix": "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    "datagrams": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "change_own_file": "open(__file__, 'w')",
    "add_file": "open('more.py', 'w')",
    "remove_own_file": "os.remove(__file__)",
    "rename_folder": "os.rename('models', 'others')",
    "chmod": "os.chmod(__file__, 0o777)",
    "shared_memory": "tempfile.TemporaryFile(dir='/dev/shm')",
    "common_tmp": "tempfile.TemporaryFile(dir='/tmp')",
    "passwords": "open('/etc/passwd')",
    "grader": f"open({str(Path(leftovers.__file__))!r})",
    "grader_folder": f"os.listdir({str(Path(leftovers.__file__).parent)!r})",
    "environment_of_zygote": "open('/proc/ZYGOTE/environ')",
    "memory_of_zygote": "open('/proc/ZYGOTE/mem')",
    "run_program": "os.execv('/bin/true', ['true'])",
    "become_root": "os.setuid(0)",
    "memory_file": "os.memfd_create('x')",
    "system_v": "call('shmget', 0, 4096, 0o1600)",
    "ptrace": "call('ptrace', 16, os.getppid(), 0, 0)",
    "io_uring": "call('syscall', 425, 8, ctypes.create_string_buffer(120))",
    "namespace": "call('unshare', 0x10000000)",
    "mount": "call('mount', b'none', b'/mnt', b'tmpfs', 0, 0)",
    "raise_limit": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
}
TRY = """
import ctypes, os, resource, signal, socket, tempfile
def call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
try:
    {attempt}
    print('done')
except (OSError, ValueError) as error:
    print('refused', error)
"""


def not_refused(box: Sandbox) -> set[str]:
    """Return which of FORBIDDEN a test can do."""
    said = {name: run(box, TRY.format(attempt=attempt.replace("ZYGOTE", str(box.process.pid)))).printed
            for name, attempt in FORBIDDEN.items()}
    return {name for name, text in said.items() if not text.startswith("refused")}


def test_what_a_test_may_not_do(box: Sandbox) -> None:
    """As root and as an ordinary user; the kernel's measures alone suffice."""
    if not {"seccomp", "landlock"} <= set(box.level.held):
        pytest.skip(f"the level is {box.level}")
    assert not_refused(box) == set()


@root_only
def test_what_the_kernels_measures_refuse_to_root() -> None:
    """With no user of its own and no namespaces, each measure of level 2 must act by itself."""
    with Sandbox(allow=("L0", "L2")) as level_2:
        if not {"seccomp", "landlock"} <= set(level_2.level.held):
            pytest.skip(f"the level is {level_2.level}")
        assert not_refused(level_2) - {"raise_limit"} == {"become_root"}  # root is root, and may raise limits


@root_only
def test_what_a_user_of_its_own_is_refused(level_1: Sandbox) -> None:
    """Level 1 alone: what is world-readable can be read, and what others listen for can be called."""
    allowed = not_refused(level_1)
    assert allowed.isdisjoint({"kill_zygote", "stop_zygote", "environment_of_zygote", "memory_of_zygote", "ptrace",
                               "change_own_file", "add_file", "remove_own_file", "rename_folder", "chmod",
                               "become_root", "raise_limit", "mount"})
    assert {"internet", "common_tmp", "passwords"} <= allowed  # or this test could not tell the levels apart


@root_only
def test_what_namespaces_refuse_to_root() -> None:
    """With no user of its own and no kernel's measures."""
    with Sandbox(allow=("L0", "L3")) as level_3:
        if not {"pid", "mount", "net"} <= set(level_3.level.held):
            pytest.skip(f"the level is {level_3.level}")
        assert not_refused(level_3).isdisjoint({"kill_zygote", "stop_zygote", "environment_of_zygote", "add_file",
                                                "memory_of_zygote", "remove_own_file", "change_own_file", "unix"})
        look = ("import os, socket; print(os.listdir('/dev/shm'), [name for _, name in socket.if_nameindex()],"
                "[name for name in os.listdir('/proc') if name.isdecimal()])")
        assert run(level_3, look).printed == "[] ['lo'] ['1']\n"


def test_a_test_inherits_four_descriptors_and_a_small_environment(any_box: Sandbox) -> None:
    """Nothing to read, what it prints twice, its reply (4); 3 was its request, and is now the list itself."""
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))), *sorted(os.environ))"
    assert run(any_box, code).printed == (
        "[0, 1, 2, 3, 4] HOME LANG LOGNAME MKL_NUM_THREADS OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH TMPDIR USER\n")


ALLOWED = {
    "scratch": "import tempfile; tempfile.TemporaryFile().write(b'x')",
    "home": "open(os.path.expanduser('~/x'), 'w')",
    "user": "import getpass; getpass.getuser()",
    "threads": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
    "signal_itself": "signal.signal(signal.SIGUSR1, print); os.kill(os.getpid(), signal.SIGUSR1)",
    "random": "os.urandom(8); __import__('random').SystemRandom().random()",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "dates": "import zoneinfo, datetime, email.message, xml.dom.minidom, unittest, sqlite3",
    "null": "open(os.devnull, 'w').write('x')",
    "processors": "os.cpu_count()",
    "einops": "import einops",
}
LAZY = """
import torch, torch.nn.functional as F
torch.set_grad_enabled(True)
import torch._dynamo, torch.fft, torch.linalg, torch.utils.data, torch.distributions, torch.utils.checkpoint
x = torch.nn.Parameter(torch.randn(2, 3, 8, 4))
F.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
torch.optim.AdamW([x]).step(); torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([x]), lambda _: 1).step()
torch.save(x, __import__('os').environ['TMPDIR'] + '/x.pt'); torch.func.vmap(torch.sin)(x); print(x, repr(x.grad))
torch.compiler.disable(lambda: None)(); torch.einsum('abcd,abcd->a', x, x); torch.linalg.svd(x[0, 0])
next(iter(torch.utils.data.DataLoader([1, 2]))); torch.testing.assert_close(x, x)
"""


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_test_may_do(any_box: Sandbox, name: str) -> None:
    reply = run(any_box, TRY.format(attempt=ALLOWED[name]))
    assert reply.printed.strip().endswith("done"), reply


def test_what_torch_imports_late_is_within_reach(box: Sandbox) -> None:
    reply = run(box, LAZY + "print('done')")
    assert reply.printed.strip().endswith("done"), reply


def test_an_optimizer_does_not_make_each_child_import_the_compiler(box: Sandbox) -> None:
    code = ("import sys, torch\nclass O(torch.optim.Optimizer):\n    def step(self): pass\n"
            "o = O([torch.nn.Parameter(torch.ones(1))], {}); o.zero_grad(); o.load_state_dict(o.state_dict())\n"
            "print('torch._dynamo' in sys.modules)")
    assert run(box, code).printed == "False\n"


def test_files_of_a_test_do_not_reach_the_next(any_box: Sandbox) -> None:
    """Deep folders, folders without permissions and thousands of files are removed, too."""
    write = ("import os\nos.chdir(os.environ['TMPDIR'])\nfor i in range(300): open(str(i), 'w').close()\n"
             "os.mkdir('closed', 0)\nfor i in range(1200):\n    os.mkdir('d'); os.chdir('d')\nprint('written')")
    assert run(any_box, write).printed == "written\n"
    assert run(any_box, "import os; print(os.listdir(os.environ['TMPDIR']))").printed == "[]\n"


STAND_INS = """
from transformers import GPT2Model as Theirs, AutoTokenizer
from tqdm import tqdm
import sklearn.metrics, requests.adapters
from sklearn.metrics import f1_score
import transformers.models.gpt2.modeling_gpt2 as deep
from transformers import *
class Ours(Theirs): pass
def f(x: Theirs | None, y: AutoTokenizer[int]) -> deep.GPT2Block: pass
AutoTokenizer.from_pretrained('gpt2')
"""


def test_absent_packages_can_be_imported_and_not_used(box: Sandbox) -> None:
    reply = run(box, STAND_INS)
    assert (reply.error, reply.place) == ("RuntimeError", "models/config.py:10")
    assert reply.message == "transformers.AutoTokenizer.from_pretrained is not there when a submission is graded"


def test_a_file_of_the_submission_comes_before_a_stand_in(box: Sandbox) -> None:
    assert run(box, "import datasets; print(datasets.x)", datasets="x = 'ours'").printed == "ours\n"


def test_the_grader_cannot_be_imported_by_a_submission(any_box: Sandbox) -> None:
    assert run(any_box, "import staff.grader.oracles").error == "ModuleNotFoundError"


def test_nothing_is_run_after_the_deadline(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "deadline", time.monotonic() - 1)
    assert honest(box).error == "not run"
    monkeypatch.setattr(box, "deadline", time.monotonic() + 0.5)
    assert run(box, "while True: pass").error == "not run"  # cut short by the deadline of all, not by its own
    monkeypatch.undo()


def test_a_level_below_the_minimum_is_refused() -> None:
    with pytest.raises(SandboxError, match="must reach L2, but this machine gives it L0"):
        Sandbox(minimum="L2", allow=("L0",)).__enter__()


@root_only
def test_two_sandboxes_never_share_users(box: Sandbox, level_1: Sandbox) -> None:
    """They would kill each other's tests."""
    assert set(box.uids).isdisjoint(level_1.uids)
    uid, gid, *groups = run(level_1, "import os; print(os.getuid(), os.getgid(), *os.getgroups())").printed.split()
    assert int(uid) in level_1.uids and (gid, groups) == (uid, [])


ORDINARY = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from tests.staff.grader.test_sandbox import DAEMON, Sandbox, honest, leftovers, run
said = {}
with Sandbox(allow=tuple(sys.argv[2].split(","))) as box:
    said["level"] = str(box.level)
    said["honest"] = honest(box).arrays is not None
    said["printed"] = run(box, DAEMON + "print('hello')").printed
    said["left"] = sorted(leftovers.descendants(box.process.pid, leftovers.processes()))
    said["spies"] = [run(box, f"open('/proc/{pid}/environ')").error for pid in (box.process.pid, os.getpid())]
    said["bomb"] = run(box, "import os, time\\nfor _ in range(300): os.fork() or time.sleep(60)").error
    said["after"] = honest(box).arrays is not None
print(json.dumps(said))
"""


def as_ordinary_user(*arguments: str) -> dict:
    """Run ORDINARY as a user without any privileges; return what it says."""
    def become_ordinary() -> None:
        if os.geteuid() == 0:
            namespaces.unshare("mount")
            namespaces.reveal([*python_folders(), sys.prefix, sys.base_prefix, str(Path.cwd())])
            os.setgroups([])
            os.setresgid(65533, 65533, 65533)
            os.setresuid(65533, 65533, 65533)

    done = subprocess.run([sys.executable, "-B", "-c", ORDINARY, str(Path.cwd()), *arguments], cwd="/",
                          preexec_fn=become_ordinary, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_level_0_as_an_ordinary_user() -> None:
    """With no level but the lowest: daemons and fork bombs are ended, and the grader's memory is out of reach."""
    assert as_ordinary_user("L0") == {"level": "L0", "honest": True, "printed": "hello\n", "left": [],
                                      "spies": ["PermissionError"] * 2, "bomb": "BlockingIOError", "after": True}


def test_every_level_that_an_ordinary_user_gets() -> None:
    said = as_ordinary_user("L0,L1,L2,L3")
    assert "no uid: only root can give each test a user of its own" in said.pop("level")
    assert set(said.pop("spies")) <= {"PermissionError", "FileNotFoundError"}
    assert said == {"honest": True, "printed": "hello\n", "left": [], "bomb": said["bomb"], "after": True}


# --- replies as bytes -------------------------------------------------------------------------------------------------

def reply_of(arrays: object, body: bytes = b"") -> Reply:
    return read_reply(json.dumps({"error": None, "arrays": arrays}).encode() + b"\n" + body, "", 0.0)


BAD_ARRAYS = {
    "objects": ([["y", "|O", [1]]], bytes(8)),
    "records": ([["y", [["a", "<f4"]], [1]]], bytes(4)),
    "huge": ([["y", "<f8", [1 << 40]]], b""),
    "huge_by_product": ([["y", "<f8", [1 << 20] * 32]], b""),
    "negative": ([["y", "<f8", [-1]]], bytes(8)),
    "boolean_shape": ([["y", "<f8", [True]]], bytes(8)),
    "fractional_shape": ([["y", "<f8", [1.0]]], bytes(8)),
    "empty_text_bomb": ([["y", "<U0", [1 << 20, 1 << 20]]], b""),
    "short": ([["y", "<f8", [2]]], bytes(8)),
    "long": ([["y", "<f8", [1]]], bytes(9)),
    "twice": ([["y", "<f8", [1]], ["y", "<f8", [1]]], bytes(16)),
    "many": ([[str(i), "<f8", [0]] for i in range(1001)], b""),
    "no_list": (7, b""),
    "no_type": ([["y", ",b,S6V,1", [1]]], bytes(8)),
    "no_type_either": ([["y", "(c,2<<", [1]]], bytes(8)),
    "parts": ([["y", "2f8", [1]]], bytes(16)),
    "surrogate": ([["\ud800", "<f8", [1]]], bytes(8)),
    "dates": ([["y", "<M8[s]", [1]]], bytes(8)),
    "impossible_type": ([["y", "<f3", [1]]], bytes(3)),
    "not_a_character": ([["y", "<U1", [1]]], b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_bad_replies(name: str) -> None:
    assert reply_of(*BAD_ARRAYS[name]).error == "bad reply"


def test_arrays_come_back_as_they_were(box: Sandbox) -> None:
    reply = reply_of([["a", "<f4", [2, 1]], ["b", "|b1", []], ["c", "<i8", [0, 3]], ["d", "<U2", [2]]],
                     np.array([np.nan, np.inf], "<f4").tobytes() + b"\1" + np.array(["né", "\x1b"], "<U2").tobytes())
    assert np.isnan(reply.arrays["a"][0, 0]) and np.isinf(reply.arrays["a"][1, 0])
    assert reply.arrays["b"] == True and reply.arrays["c"].shape == (0, 3)  # noqa: E712
    assert reply.arrays["d"].tolist() == ["né", "\\x1b"]
    reply.arrays["a"][:] = 0  # a test may write in them


KEYS = ["error", "arrays", "message", "place"]


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner), max_leaves=12)))
def test_any_bytes_make_a_reply(said: object) -> None:
    """read_reply never raises, whatever a child writes."""
    data = said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n"
    reply = read_reply(data, "", 0.0)
    assert reply.arrays == {} or (reply.error and type(reply.error) is str)


@given(st.text())
def test_plain_text_is_printable(text: str) -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in plain(text))
