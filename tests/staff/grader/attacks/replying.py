"""Attacks by what comes back: results of the wrong kind, and replies that the code writes itself."""

from tests.staff.grader.attacks.attack import attack

# What forward returns.
for name, expression in {
    "NaN": "torch.full_like(x, float('nan'))",
    "infinity": "torch.full_like(x, float('inf'))",
    "another dtype": "x.to(torch.complex64)",
    "integers": "x.to(torch.int8)",
    "bools": "x > 0",
    "another shape": "x[0]",
    "a thousand dimensions less": "torch.tensor(1.0)",
    "nothing": "None",
    "a text": "'passed'",
    "itself": "self",
    "a tensor of 21 GB that takes 4 bytes": "torch.zeros(1).expand(3, 7, 250_000_000)",
    "a sparse tensor": "x.to_sparse()",
    "a tensor without data": "x.to('meta')",
    "an array of objects": "Array([os.system])",
    "a megabyte of text": "Array(['x' * 250_000])",
}.items():
    attack(f"return {name}", "T4", after=f'''
class Array:
    def __init__(self, value): self.value = value
    def numpy(self):
        import numpy
        return numpy.array(self.value)
CausalSelfAttention.forward = lambda self, x, mask: {expression}
''')

attack("outputs that are no dict of arrays", "T4", '''
class Everything(dict):
    def items(self): return [("file", 1), ("y", "x"), (3, 4), ("../../y", 1), ("y" * 70000, 1), ("", 2)]
import numpy
savez = numpy.savez
numpy.savez = lambda file, **arrays: savez(file, **{"args": 1, "y/../y": 2, "y.npy": 3, "": 4})
''')

# Replies that the code writes into every descriptor it has, before it ends.
SEND = """
import json, pickle
def head(arrays, error=None, **more):
    return json.dumps({"error": error, "arrays": arrays, **more}).encode() + b"\\n"
def failed(error, message="", place=""):
    return head([], error, message=message, place=place)
def send(*parts):
    for descriptor in attempt(open_files) or range(256):
        if descriptor > 2:
            try:
                for part in parts:
                    data = memoryview(part)
                    while data:
                        data = data[os.write(descriptor, data):]
                say("sent to", descriptor)
            except OSError:
                pass
    os._exit(0)
Y = ["y", "<f4", [3, 7, 48]]
ZEROS = bytes(3 * 7 * 48 * 4)
"""
for name, parts in {
    "an empty reply": "b''",
    "half a reply": "head([Y]) + ZEROS[:-1]",
    "a reply that is too long": "head([Y]) + ZEROS + b'x'",
    "two replies": "head([Y]) + ZEROS, head([Y]) + ZEROS",
    "two arrays of one name": "head([Y, Y]) + 2 * ZEROS",
    "a reply and a verdict": "head([Y], passed=True, score=1000, status='passed') + ZEROS",
    "bytes without order": "os.urandom(100_000)",
    "a pickle": "pickle.dumps({'y': os.system})",
    "an array of objects": "head([['y', '|O', [3, 7, 48]]]) + bytes(8 * 3 * 7 * 48)",
    "a type that is code": "head([['y', '(exit(', [1]]]) + bytes(4)",
    "a type of fields": "head([['y', 'f4,(9,)f8', [1]]]) + bytes(76)",
    "letters that do not exist": "head([['y', '<U1', [1]]]) + b'\\xff' * 4",
    "a name that cannot be written": "head([['\\ud800', '<f4', [1]]]) + bytes(4)",
    "ten thousand arrays": "head([[f'y{i}', '<f4', [0]] for i in range(10_000)])",
    "a gigabyte": "*[bytes(1 << 20)] * 1024",
    "an array of terabytes": "head([['y', '<f4', [1 << 20, 1 << 20]]]) + ZEROS",
    "a negative shape": "head([['y', '<f4', [-1]]]) + ZEROS",
    "a shape that is a text": "head([['y', '<f4', '37']]) + ZEROS",
    "a hundred dimensions": "head([['y', '<f4', [1] * 100]]) + bytes(4)",
    "a hundred thousand brackets": "b'[' * 100_000 + b'\\n'",
    "a million digits": "b'{\"error\": ' + b'9' * 1_000_000 + b'}\\n'",
    "half a letter": "failed('ValueError', '\\ud800\\0', '\\udfff')",
    "an error of 15 MB": "failed('x' * 15_000_000)",
    "an error of 90 kB": "failed('x' * 90_000)",
    "the grader's own words": "failed('time', 'grader error')",
    "an error that is true": "failed(True)",
    "an error that is no number": "failed(float('nan'))",
    "an error that is a dict": "failed({'passed': True}, [], 1e999)",
    "a line that does not end": "b'{' + b' ' * 17_000_000",
}.items():
    attack(f"send {name}", "T9" if "pickle" in name or "objects" in name else "T4", SEND + f"send({parts})\n")

attack("send a reply byte by byte for ever", "T14", SEND + '''
while True:
    for descriptor in attempt(open_files) or range(256):
        if descriptor > 2:
            attempt(os.write, descriptor, b"{")
    time.sleep(0.01)
''')
attack("fill each pipe and stop reading", "T14", '''
import fcntl
for descriptor in attempt(open_files) or range(256):
    try:
        fcntl.fcntl(descriptor, 1031, 1 << 20)  # F_SETPIPE_SZ
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
        while os.write(descriptor, bytes(65536)): pass
    except OSError:
        pass
''')
