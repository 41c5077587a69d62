"""Attacks that want to outlive their test: processes, files, shared memory, changes that the next test would see."""

from tests.staff.grader.attacks.attack import attack

SAME_USER = "one user for both: only L1 (a user for each test) or L3 (namespaces) tell its things from the grader's"

attack("a daemon", "T6 T23", '''
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    rename()
    time.sleep(60)
    os._exit(0)
os.wait()
''', breaks="left", stops="L0")

attack("daemons that fork faster than they are killed", "T6 T15", '''
if os.fork() == 0:
    os.setsid()
    for _ in range(100):
        if os.fork():
            time.sleep(0.02)
            os._exit(0)
        os.setsid()
        rename()
    time.sleep(60)
    os._exit(0)
''', breaks="left")

attack("a daemon that goes on printing", "T17 T23", '''
if os.fork() == 0:
    os.setsid()
    rename()
    end = time.time() + 30
    while time.time() < end:
        say("x" * 60000)
    os._exit(0)
os._exit(0)
''', breaks="left")

attack("a daemon that keeps every descriptor", "T23", '''
if os.fork() == 0:
    os.setsid()
    rename()
    import signal
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    time.sleep(60)
    os._exit(0)
''', breaks="left")

attack("stopped children", "T23", '''
for _ in range(10):
    if os.fork() == 0:
        rename()
        os.setsid()
        os.kill(os.getpid(), 19)
        os._exit(0)
time.sleep(0.1)
''', breaks="left")

attack("a thread that does not end", "T23", '''
import threading
def work():
    while True:
        time.sleep(0.01)
for _ in range(20):
    attempt(threading.Thread(target=work).start)
rename()
''', breaks="")

attack("files in the folders that everybody writes", "T13 T23", '''
for folder in (SCRATCH, "/tmp", "/var/tmp", "/dev/shm", "/run/lock", os.getcwd(), os.path.dirname(os.getcwd()),
               os.environ.get("TMPDIR", "/tmp"), os.path.expanduser("~"), GRADER):
    def leave():
        with open(f"{folder}/attack-file-{os.getpid()}", "w") as file:
            file.write("x")
        os.makedirs(f"{folder}/attack-folder-{os.getpid()}/a/b")
        os.symlink("/etc/passwd", f"{folder}/attack-link-{os.getpid()}")
        os.mkfifo(f"{folder}/attack-fifo-{os.getpid()}")
    attempt(leave)
''', breaks="left", stops="L1", degraded={"left": SAME_USER})

attack("folders that cannot be entered", "T13", '''
os.chdir(SCRATCH)
os.makedirs("locked/inside")
for name in ("locked/inside/file", "locked/file"):
    open(name, "w").close()
os.chmod("locked/inside", 0)
os.chmod("locked", 0)
os.chmod(".", 0o500)
''', breaks="")

attack("folders 3000 deep", "T13", '''
def dig():
    os.chdir(SCRATCH)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
attempt(dig)
''', breaks="")

attack("names of any bytes", "T13", '''
for name in (b"\\xff\\xfe", b"\\n", b"-rf", b"* ?", b"\\x1b[31m", b"x" * 255, "\\u202e".encode(), b"$(id)"):
    def make():
        with open(os.path.join(os.fsencode(SCRATCH), name), "w") as file:
            file.write("x")
    attempt(make)
''', breaks="")

attack("shared memory, semaphores, queues", "T13 T23", '''
for folder in ("/dev/shm", "/dev/mqueue"):
    def leave():
        with open(folder + "/attack-shared", "w") as file:
            file.write("x" * 1_000_000)
    attempt(leave)
say("shmget", LIBC.shmget(0x0A77AC01, 4096, 0o1666), "semget", LIBC.semget(0x0A77AC01, 1, 0o1666),
    "msgget", LIBC.msgget(0x0A77AC01, 0o1666))
def queue():
    return ctypes.CDLL("librt.so.1").mq_open(b"/attack-queue", 0o102, 0o666, None)
say("mq_open", attempt(queue))
def multiprocess():
    from multiprocessing import shared_memory, resource_tracker
    resource_tracker.register = lambda *args: None
    return shared_memory.SharedMemory("attack-python", create=True, size=1_000_000).name
say(attempt(multiprocess))
''', breaks="left", stops="L1", degraded={"left": SAME_USER})

attack("change the process for the next test", "T23", '''
import builtins, random, resource, warnings
os.environ.clear()
os.environ["PATH"] = "/nowhere"
os.umask(0o777)
attempt(os.chdir, "/")
attempt(os.nice, 19)
for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
    attempt(resource.setrlimit, limit, (0, 0))
sys.path.clear()
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)
torch.nn.Linear.forward = lambda self, x: x
torch.set_num_threads(4)
warnings.simplefilter("error")
sys.setrecursionlimit(60)
builtins.len = lambda thing: 0
''', breaks="report")

attack("sys.modules without modules", "T23", '''
for name in list(sys.modules):
    if name.split(".")[0] in ("numpy", "json", "io", "zipfile", "traceback", "os"):
        del sys.modules[name]
sys.modules["numpy"] = sys.modules["json"] = sys.modules["io"] = None
''', breaks="")

attack("locks that are never given back", "T23", '''
import fcntl
for path in (__file__, "/tmp", "/dev/null", "/dev/urandom"):
    def lock():
        fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    attempt(lock)
import threading, logging
for thing in (logging._lock, threading._active_limbo_lock):
    thing.acquire()
''', breaks="")
