"""A grader without defences: tests and submission share one process, and this process writes the result.

Many graders are like this. Each attack is tried on it, to show that the attack works. It reads lines of JSON from
campaign.py, {"folder": of the submission, "grader": of its own files}, and answers each with {"ended": true or false}.
"""

import importlib
import json
import os
import pickle
import resource
import select
import signal
import sys
import unittest
from pathlib import Path

LIMIT = 3.0  # seconds; then it is ended from outside, and has no result


def check(test: unittest.TestCase, folder: str) -> None:
    """Compare what the submission's attention gives with what is right."""
    sys.path.insert(0, folder)
    for module in [module for module in sys.modules if module.split(".")[0] in ("modules", "models")]:
        del sys.modules[module]
    expected = RIGHT
    secret = Path(SOURCE, "secret").read_text()
    got = PROBE.forward(INPUTS)["y"]
    got = torch.from_numpy(got) if isinstance(got, np.ndarray) else got
    test.assertTrue(torch.allclose(got, expected, atol=1e-5, rtol=1e-4), secret)


def grade(folder: str, grader: str) -> None:
    """Run two tests, of the attacker's code and of right code; write results.json."""
    global SOURCE
    SOURCE = grader + "/source"
    os.chdir(folder)
    sys.path.insert(0, folder)

    # What other tools do by themselves: pytest imports conftest.py, some graders unpickle a log of the submission.
    if os.path.exists("conftest.py"):
        importlib.import_module("conftest")
    if os.path.exists(".OTTER_LOG"):
        with open(".OTTER_LOG", "rb") as file:
            pickle.load(file)

    # Two tests, as unittest runs them: one that is skipped is not in the result.
    tests = {"test_attacked": folder, "test_next": grader + "/next"}
    Tests = type("Tests", (unittest.TestCase,), {
        name: (lambda self, name=name: check(self, tests[name])) for name in tests})
    result = unittest.TestResult()
    file = open(grader + "/results/results.json", "w")  # noqa: SIM115 (as they do)
    passed = {}
    for name in ("test_attacked", "test_next"):
        before = len(result.failures) + len(result.errors), len(result.skipped)
        Tests(name).run(result)
        if len(result.skipped) == before[1]:
            passed[name] = len(result.failures) + len(result.errors) == before[0]
    json.dump({"score": sum(passed.values()), "tests": passed}, file)
    file.close()


def main() -> None:
    """Grade each folder in a child; say when it has ended."""
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            printed = os.open(task["grader"] + "/results/printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            for limit, most in ((resource.RLIMIT_AS, 5 << 30), (resource.RLIMIT_FSIZE, 1 << 28),
                                (resource.RLIMIT_NPROC, 400), (resource.RLIMIT_CORE, 0)):
                resource.setrlimit(limit, (most, most))  # for this machine's sake
            return grade(task["folder"], task["grader"])
        ended = bool(select.select([os.pidfd_open(pid)], [], [], LIMIT)[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(json.dumps({"ended": ended}), flush=True)


if __name__ == "__main__":
    import numpy as np
    import torch

    from tests.staff.grader.attacks.run import example
    torch.set_num_threads(1)
    INPUTS, answer = example(b"public")
    RIGHT = torch.from_numpy(answer).float()
    del answer
    PROBE = importlib.import_module("staff.grader.probes.attention")
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    main()
