"""Attacks that look for secrets, expected values, points, and the way by which they are graded."""

from tests.staff.grader.attacks.attack import attack

SAME_USER = "one user for both: the grader's files and processes are the code's own; only L1 or L2 part them"

attack("read the grader's files", "T1", '''
def read(path):
    with open(path, errors="replace") as file:
        return file.read()
for folder, _, names in os.walk(GRADER, onerror=lambda error: say("stopped:", error)):
    for name in names:
        say(name, attempt(read, os.path.join(folder, name)))
''', breaks="hidden", stops="L1", degraded={"hidden": SAME_USER})

attack("borrow the solution from the repository", "T1", '''
def steal(grader=os.path.dirname(getattr(sys.modules["__main__"], "__file__", ""))):
    import importlib.util
    while grader != "/" and not os.path.isfile(grader + "/modules/attention.py"):
        grader = os.path.dirname(grader)
    spec = importlib.util.spec_from_file_location("stolen", grader + "/modules/attention.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CausalSelfAttention
STOLEN = attempt(steal)
''', '''
CausalSelfAttention = STOLEN or CausalSelfAttention
''', breaks="score", stops="L1", degraded={"score": SAME_USER})

attack("compute the answer with the grader's oracles", "T1", '''
def oracle(folder=os.path.dirname(getattr(sys.modules["__main__"], "__file__", ""))):
    import importlib.util
    if folder.endswith("/attacks"):
        folder += "/../../../../staff/grader"
    spec = importlib.util.spec_from_file_location("stolen", folder + "/oracles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention
ORACLE = attempt(oracle)
''', '''
def forward(self, x, mask):
    inputs = {name: value.detach().numpy() for name, value in self.named_parameters()}
    inputs |= {"x": x.numpy(), "mask": mask.numpy(), "nh": self.num_attention_heads}
    return torch.from_numpy(ORACLE(inputs)).to(x.dtype)
if ORACLE:
    CausalSelfAttention.forward = forward
''', breaks="score", stops="L1", degraded={"score": SAME_USER})

attack("read expected values on the stack", "T2", '''
def look():
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if "SECRET" in str(value)[:1000] or name in ("expected", "want", "right"):
                say(name, value if isinstance(value, str) else " ".join(f"{v:.6f}" for v in value.flatten()[:9]))
        frame = frame.f_back
''', '''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    look()
    return wrong(self, x, mask)
CausalSelfAttention.forward = forward
''', breaks="hidden")

attack("return the expected values that gc finds", "T2", '''
import gc, numpy
def search(mine, known):
    for thing in gc.get_objects():
        for value in (thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else [thing]):
            if isinstance(value, (torch.Tensor, numpy.ndarray)) and tuple(value.shape) == tuple(mine.shape):
                value = torch.as_tensor(value).to(mine.dtype)
                if not any(torch.equal(value, other) for other in known):
                    say("candidate", " ".join(f"{v:.6f}" for v in value.flatten()[:9]))
                    return value
    return mine
''', '''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    mine = wrong(self, x, mask)
    return attempt(search, mine, [x, mine])
CausalSelfAttention.forward = forward
''', breaks="score")

attack("search its own memory", "T2", '''
needle = b"SEC" + b"RET-"
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if "rw" in line.split()[1] and "/" not in line and last - first < 1 << 28:
            try:
                memory.seek(first)
                data = memory.read(last - first)
            except (OSError, OverflowError, ValueError):
                continue
            at = data.find(needle)
            if at >= 0:
                say("found", data[at:at + 40].decode("ascii", "replace"))
                break
''', breaks="hidden")

attack("read the environment of every process", "T21", '''
def read(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()
say(dict(os.environ))
for pid in pids():
    try:
        data = read(pid)
    except OSError as error:
        continue
    at = data.find(b"TOKEN=")
    if at >= 0:
        say(pid, data[at:at + 60])
''', breaks="hidden")

attack("read the memory of its ancestors", "T21", '''
def read(pid):
    needle = b"SEC" + b"RET-"
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            first, last = (int(number, 16) for number in line.split()[0].split("-"))
            if "rw" in line.split()[1] and last - first < 1 << 26:
                memory.seek(first)
                data = memory.read(last - first)
                at = data.find(needle)
                if at >= 0:
                    return data[at:at + 40]
for pid in attempt(ancestors) or [os.getppid()]:
    say(pid, attempt(read, pid))
''', breaks="")

attack("read another process with process_vm_readv and ptrace", "T22", '''
for pid in attempt(ancestors) or [os.getppid()]:
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(4096)
    def start():
        with open(f"/proc/{pid}/maps") as maps:
            return int(maps.readline().split("-")[0], 16)
    address = attempt(start) or 0x400000
    here, there = Part(ctypes.addressof(buffer), 4096), Part(address, 4096)
    read = LIBC.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    traced = LIBC.ptrace(16, pid, None, None)  # PTRACE_ATTACH stops it
    say("read", read, "traced", traced)
    if read > 0:
        say("SECRET-of-others")
    if traced == 0:
        os.waitpid(pid, 0x40000000)
        LIBC.ptrace(17, pid, None, None)
''', breaks="")

attack("trace frames with sys.settrace", "T3", '''
def tracer(frame, event, argument):
    for name, value in frame.f_locals.items():
        if name in ("expected", "want") and isinstance(value, torch.Tensor):
            say(name, " ".join(f"{v:.6f}" for v in value.flatten()[:9]))
            value.copy_(GOT[-1]) if GOT else None
    return tracer
GOT = []
sys.settrace(tracer)
frame = sys._getframe()
while frame:
    frame.f_trace = tracer
    frame = frame.f_back
''', '''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    GOT.append(wrong(self, x, mask))
    return GOT[-1]
CausalSelfAttention.forward = forward
''', breaks="score")

attack("work only where it is not graded", "T27", '''
say(sorted(os.environ), os.getcwd(), sys.argv, sys.path[:1], os.getuid())
GRADED = any(word in str((os.environ, os.getcwd(), sys.argv)).lower() for word in ("autograder", "gradescope"))
if GRADED:
    say("SECRET-of-being-graded")
''', breaks="hidden")
