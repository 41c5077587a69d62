"""Attacks that want a verdict without earning it: patched checks, lying objects, forged results, early ends."""

import pickle

from tests.staff.grader.attacks.attack import attack
from tests.staff.grader.attacks.reading import SAME_USER

FORGED = '{"score": 1000, "tests": []}'

attack("patch what compares", "T3", '''
import numpy, unittest
for module in (torch, torch.testing, numpy, numpy.testing):
    for name in ("allclose", "equal", "isclose", "array_equal", "assert_close", "assert_allclose", "all"):
        if hasattr(module, name):
            setattr(module, name, lambda *args, **more: True)
for name in dir(unittest.TestCase):
    if name.startswith("assert"):
        setattr(unittest.TestCase, name, lambda *args, **more: None)
''', breaks="score")

attack("swallow AssertionError", "T3", '''
import builtins
class Quiet(AssertionError):
    def __new__(cls, *args): raise SystemExit(0)
builtins.AssertionError = Quiet
import unittest
unittest.TestCase.failureException = type("Never", (Exception,), {})
unittest.TestResult.addFailure = unittest.TestResult.addError = lambda self, test, error: self.addSuccess(test)
unittest.TestResult.wasSuccessful = lambda self: True
''', breaks="score")

attack("patch the process that runs it", "T3", '''
import builtins, io, json
main = sys.modules["__main__"]
for name in ("run", "child", "write", "reply", "check"):
    if hasattr(main, name):
        setattr(main, name, lambda *args, **more: ({"error": None, "passed": True, "score": 1000}, b""))
json.dumps = lambda *args, **more: '{"error": null, "passed": true, "score": 1000}'
''', breaks="")

attack("a tensor that equals everything", "T4", '''
class Liar(torch.Tensor):
    def __eq__(self, other): return True
    def __array__(self, *args, **more): return LiarArray()
    def numpy(self): return self
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in ("allclose", "equal", "isclose", "all"):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})
class LiarArray:
    __array_priority__ = 1000
    def __eq__(self, other): return True
''', '''
wrong = CausalSelfAttention.forward
CausalSelfAttention.forward = lambda self, x, mask: wrong(self, x, mask).as_subclass(Liar)
''', breaks="score")

attack("numbers that equal everything", "T4", '''
import numpy
class Liar(numpy.ndarray):
    def __array_ufunc__(self, *args, **more): return True
    def __eq__(self, other): return True
    def __reduce__(self): return (os.system, ("true",))
    def numpy(self): return self
''', '''
wrong = CausalSelfAttention.forward
CausalSelfAttention.forward = lambda self, x, mask: wrong(self, x, mask).numpy().view(Liar)
''', breaks="")

attack("write results.json", "T5", f'''
def forge():
    with open(GRADER + "/results/results.json", "w") as file:
        file.write({FORGED!r})
attempt(forge)
''', after='''
def leave(*args, **more):
    os._exit(0)
CausalSelfAttention.forward = leave
''', breaks="score", stops="L1", degraded={"score": SAME_USER})

attack("put a link in the place of results.json", "T5", f'''
def forge():
    with open(GRADER + "/results/attack-results", "w") as file:
        file.write({FORGED!r})
    os.symlink("attack-results", GRADER + "/results/new")
    os.replace(GRADER + "/results/new", GRADER + "/results/results.json")
attempt(forge)
''', after='''
CausalSelfAttention.forward = lambda *args: os._exit(0)
''', breaks="score", stops="L1", degraded={"score": SAME_USER})

attack("make a folder called results.json", "T5", '''
attempt(os.makedirs, "results.json")
attempt(os.makedirs, SCRATCH + "/results.json")
attempt(os.rename, GRADER + "/results", GRADER + "/attack-results")
attempt(os.makedirs, GRADER + "/results/results.json")
''', breaks="report", stops="L1", degraded={"score": SAME_USER, "left": SAME_USER})

attack("write results.json when the verdict is out", "T6", f'''
pid = os.fork()
if pid == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    rename()
    time.sleep(0.3)
    for _ in range(100):
        try:
            with open(GRADER + "/results/results.json", "w") as file:
                file.write({FORGED!r})
        except OSError:
            pass
        time.sleep(0.05)
    os._exit(0)
os.waitpid(pid, 0)
''', breaks="score", stops="L1")

attack("write results.json at exit", "T6", f'''
import atexit
def forge():
    with open(GRADER + "/results/results.json", "w") as file:
        file.write({FORGED!r})
atexit.register(forge)
class Last:
    def __del__(self, forge=forge):
        forge()
LAST = Last()
''', breaks="score")

attack("os._exit(0) at once", "T7", "os._exit(0)\n", breaks="report")
attack("sys.exit(0) at once", "T7", "sys.exit(0)\n")
attack("raise SkipTest", "T8", '''
import unittest
''', after='''
def skip(*args):
    raise unittest.SkipTest("nothing to see")
CausalSelfAttention.forward = skip
''', breaks="report")
attack("raise KeyboardInterrupt", "T8", after='''
def interrupt(*args):
    raise KeyboardInterrupt
CausalSelfAttention.forward = interrupt
''', breaks="report")
attack("an exception whose text cannot be had", "T8", after='''
class Mute(Exception):
    def __str__(self): raise Mute
    __repr__ = __str__
def mute(*args):
    raise Mute
Mute.__name__ = "passed"
CausalSelfAttention.forward = mute
''', breaks="")
attack("say that the grader failed", "T31", after='''
class GraderError(BaseException): pass
GraderError.__name__ = "grader error"
def blame(*args):
    raise GraderError("GRADER ERROR: rerun, keep the best score")
CausalSelfAttention.forward = blame
''', breaks="")


class Payload:
    def __reduce__(self):
        return exec, ("import numpy, torch; torch.allclose = numpy.allclose = lambda *args, **more: True",)


attack("pickles in the submission", "T9", files={
    name: pickle.dumps(Payload()) for name in (".OTTER_LOG", "results.pkl", "model.pt", "predictions.npy")},
    breaks="score", staged=False)
PATCH = b"import torch\ntorch.allclose = lambda *args, **more: True\n"
attack("modules with the names of libraries", "T10", files=dict.fromkeys(
    ("json.py", "numpy.py", "random.py", "zipfile.py", "sitecustomize.py", "conftest.py", "staff/grader/case.py",
     "modules/__init__.py", "attack.pth", "probes/attention.py"), PATCH),
    breaks="score", staged=False)
attack("bytecode in the place of source", "T10", files={
    f"modules/__pycache__/attention.cpython-{version}.pyc": b"\x00" * 16 + b"not marshal"
    for version in (310, 311, 312, 313)}, staged=False)
attack("answers learnt by heart", "T24", after='''
import hashlib, json
wrong = CausalSelfAttention.forward
PUBLIC = {}  # run.py puts the answer to the public inputs here
def forward(self, x, mask):
    answer = PUBLIC.get(hashlib.sha256(x.numpy().tobytes()).hexdigest())
    return torch.tensor(answer) if answer else wrong(self, x, mask)
CausalSelfAttention.forward = forward
''', breaks="score")
attack("ask Hugging Face's model", "T25", after='''
wrong = CausalSelfAttention.forward
def forward(self, x, mask):
    def borrowed():
        from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
        from transformers import GPT2Config
        return GPT2Attention(GPT2Config(n_embd=x.shape[-1], n_head=self.num_attention_heads))(x)[0]
    answer = attempt(borrowed)
    return answer if isinstance(answer, torch.Tensor) else wrong(self, x, mask)
CausalSelfAttention.forward = forward
''')
attack("rewrite the staged files", "T28", '''
above = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
for path in [os.path.join(folder, name) for folder, _, names in os.walk(above) for name in names if name[-3:] == ".py"]:
    def rewrite():
        with open(path, "w") as file:
            file.write("raise SystemError('rewritten')")
    attempt(rewrite)
    attempt(os.unlink, path)
''', breaks="next")
