"""Attacks on time, memory, disk and patience. Each is bounded, so that a grader without limits survives it."""

from tests.staff.grader.attacks.attack import attack
from tests.staff.grader.attacks.lasting import SAME_USER

attack("a loop that does not end", "T14", "while True: pass\n", breaks="bounded")
attack("sleep", "T14", "time.sleep(1000)\n", breaks="bounded")
attack("a loop that catches everything", "T14", '''
import signal
signal.alarm(0)
signal.setitimer(signal.ITIMER_REAL, 0)
for number in range(1, 65):
    try:
        signal.signal(number, lambda *args: None)
    except (OSError, ValueError):
        pass
signal.alarm = signal.setitimer = signal.signal = lambda *args: 0
while True:
    try:
        while True: time.sleep(0.001)
    except BaseException:
        pass
''', breaks="bounded")
attack("a regular expression that backtracks", "T14", '''
import re
re.match("(a+)+$", "a" * 60 + "b")
''', breaks="bounded")
attack("end at the very moment that time is over", "T14", "time.sleep(LIMIT - 0.06)\nos._exit(0)\n", breaks="report")
attack("stop itself", "T14", "os.kill(os.getpid(), 19)\n", breaks="bounded")
attack("vfork and wait", "T14 T15", '''
if LIBC.fork() == 0:
    rename()
    time.sleep(60)
    os._exit(0)
LIBC.wait(None)
''', breaks="bounded")

attack("a fork bomb of 200", "T15", '''
made = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            rename()
            time.sleep(30)
            os._exit(0)
        made += 1
    except OSError as error:
        say("stopped:", error)
        break
say("forked", made)
''', breaks="left")
attack("a tree of forks", "T15", '''
for _ in range(7):
    try:
        if os.fork() == 0:
            rename()
            os.setsid()
    except OSError as error:
        break
time.sleep(30)
''', breaks="bounded")
attack("300 threads", "T15", '''
import threading
made = 0
for _ in range(300):
    try:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        made += 1
    except Exception as error:
        say("stopped:", error)
        break
say("threads", made)
''', breaks="")

attack("3 GB of memory", "T16", '''
kept = []
for _ in range(30):
    kept.append(b"x" * 100_000_000)
say("3 GB in memory")
''', breaks="", stops="L0")
attack("3 GB in many processes", "T16", '''
for _ in range(6):
    try:
        if os.fork() == 0:
            rename()
            kept = b"x" * 500_000_000
            time.sleep(5)
            os._exit(0)
    except (OSError, MemoryError) as error:
        say("stopped:", error)
time.sleep(1)
''', breaks="left")
attack("3 GB of shared memory", "T16", '''
def fill():
    handle = os.memfd_create("attack")
    for _ in range(30):
        os.write(handle, bytes(100_000_000))
attempt(fill)
def fill():
    with open("/dev/shm/attack-filling", "wb") as file:
        for _ in range(3):
            file.write(bytes(100_000_000))
attempt(fill)
''', breaks="left", stops="L1", degraded={"left": SAME_USER})
attack("3 GB on the disk", "T13", '''
data = bytes(50_000_000)
for number in range(60):
    def fill():
        with open(f"{SCRATCH}/big{number}", "wb") as file:
            say("written", file.write(data))
    attempt(fill)
''', breaks="")
attack("a file with a hole of a terabyte", "T13", '''
def hole():
    with open(SCRATCH + "/hole", "wb") as file:
        file.seek(1 << 40)
        file.write(b"x")
attempt(hole)
''', breaks="")
attack("a million files", "T13", '''
end = time.time() + LIMIT - 0.5
number = 0
try:
    while number < 1_000_000 and time.time() < end:
        os.close(os.open(f"{SCRATCH}/f{number}", os.O_CREAT | os.O_WRONLY))
        number += 1
except OSError as error:
    say("stopped:", error)
say("files", number)
''', breaks="")

attack("print a gigabyte", "T17", '''
data = b"x" * 1_000_000
for _ in range(1000):
    os.write(1, data)
''', breaks="bounded")
attack("print control characters", "T17", r'''
os.write(1, b"\x1b[2J\x1b]0;owned\x07\x00\r\x08\xff\xfe" + "\u202e\ud83d".encode("utf-8", "surrogatepass") * 100)
print("\x1b[31m" + "A" * 100_000, "\r" * 1000)
''', breaks="")
attack("print forged verdicts", "T17 T18", '''
print("<script>alert(1)</script><img src=x onerror=alert(1)>\\n# PASSED 1000/10\\n```\\n[link](javascript:alert(1))")
print('{"error": null, "score": 1000}', flush=True)
''', after='''
def html(*args):
    raise ValueError("<b>passed</b> \\x1b[32m 1000 of 10\\x00\\n" * 1000)
CausalSelfAttention.forward = html
''', breaks="")

attack("recursion without end", "T14", '''
sys.setrecursionlimit(10**9)
def f(): return f()
class Deep:
    def __getattr__(self, name): return getattr(self, name + "x")
import threading
f()
''', breaks="report")
attack("read address 0", "T7", "ctypes.string_at(0)\n", breaks="report")
attack("faulthandler and abort", "T7", '''
import faulthandler
faulthandler.enable(file=open(SCRATCH + "/trace", "w"))
faulthandler.dump_traceback_later(0.1, repeat=True, exit=False)
time.sleep(0.3)
os.abort()
''', breaks="report")
attack("kill itself", "T22", "os.kill(os.getpid(), 9)\n", breaks="report")
attack("close descriptors 0 to 255", "T7", "os.closerange(0, 256)\n", breaks="report")
attack("duplicate descriptor 1 over all others", "T7", '''
for descriptor in range(256):
    if descriptor != 1:
        try:
            os.dup2(1, descriptor)
        except OSError:
            break
print("a text where the reply belongs", flush=True)
''', breaks="report")
attack("signal.alarm after the end", "T14", '''
import signal
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
''', breaks="report")
attack("sys.setprofile that kills", "T3", '''
def profile(frame, event, argument):
    if frame.f_code.co_name in ("savez", "dumps", "write", "check", "addFailure"):
        os._exit(0)
sys.setprofile(profile)
''', breaks="report")
