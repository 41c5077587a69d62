"""Make all attacks in processes of their own, as some user, and collect what came of them."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from staff.grader import leftovers
from staff.grader.grade import GIVEN
from tests.staff.grader.attacks import watch
from tests.staff.grader.attacks.all import ATTACKS
from tests.staff.grader.attacks.attack import ROOT, TARGET, right_code, submission
from tests.staff.grader.attacks.ordinary import USER, become_ordinary
from tests.staff.grader.attacks.run import learnt, prepare

SILENCE = 120.0  # seconds without a word, after which a grader counts as hung
ROOTED = os.geteuid() == 0


def start(module: str, *words: str, **environment: str) -> subprocess.Popen:
    """Start a module of this folder; as an ordinary user where words begin with "degraded" or "naive"."""
    ordinary = ROOTED and words[:1] != ("full",)
    return subprocess.Popen(
        [sys.executable, "-B", "-m", f"tests.staff.grader.attacks.{module}", *words], cwd=ROOT, bufsize=0,  # see `read`
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env={"HOME": "/tmp", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "AUTOGRADER": "yes",
             "TOKEN": "SECRET-start", **environment},
        preexec_fn=become_ordinary if ordinary else None)


def stop(process: subprocess.Popen, patience: float = 0.0) -> None:
    """End a process and all below it, and take away what attacks left behind. patience: seconds to end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    for pid in leftovers.descendants(process.pid, leftovers.processes()) | {process.pid}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    watch.clean()


def read(process: subprocess.Popen, silence: float = SILENCE) -> dict | None:
    """Return the next line of JSON; None if the process has ended, {"silent": True} if it says nothing for too long.

    Its output must have no buffer: select does not see a line that a buffer holds.
    """
    deadline = time.monotonic() + silence
    while time.monotonic() < deadline and select.select([process.stdout], [], [], deadline - time.monotonic())[0]:
        line = process.stdout.readline()
        if not line:
            return None
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            return said
    return {"silent": True}


def sandbox(level: str, names: Iterable[str]) -> dict[str, dict]:
    """Make attacks on the sandbox, with every level ("full") or with L0 alone ("degraded"): attack -> what came of it.

    A grader that dies or hangs under an attack has broken "report" or "bounded", and is started again for the rest.
    """
    names, results = list(names), {}
    home = tempfile.mkdtemp(prefix="attacks-")
    os.chmod(home, 0o755)
    if ROOTED and level != "full":
        os.chown(home, USER, USER)
    while names:
        process, current = start("run", level, *names, TMPDIR=home), names[0]
        while names:
            said = read(process)
            if said is None and process.wait(10) > 0:
                raise RuntimeError(f"run.py failed under the attack {current!r}; what it printed says why")
            if said is None or said.get("silent"):
                broken = {"report": "the grader was ended"} if said is None else {"bounded": "the grader hangs"}
                if left := watch.left():
                    broken["left"] = "; ".join(left[:3])
                nothing = {"attack": current, "ran": True, "status": "", "said": "", "broken": {}}
                found = results.setdefault(current, nothing)
                found["broken"].update(broken)  # it may have had its result, and have ended the grader later
                names = [name for name in names if name != current]
                break
            if "start" in said:
                current = said["start"]
            elif said.get("attack") in names:
                results[said["attack"]] = said
                names.remove(said["attack"])
        stop(process, 0.0 if names else 30.0)
    shutil.rmtree(home, ignore_errors=True)
    return results


def naive(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Make attacks on naive.py, as an ordinary user: attack -> broken promises."""
    results, process = {}, None
    home = Path(tempfile.mkdtemp(prefix="naive-"))
    os.chmod(home, 0o755)
    listener = watch.Listener(home)
    for number, name in enumerate(names):
        process = process if process and process.poll() is None else start("naive", "naive")
        grader = home / f"autograder{number}"
        lay_out(grader, submission(ATTACKS[name], str(grader), listener.port, listener.path))
        listener.heard = b""
        process.stdin.write(json.dumps({"folder": str(grader / "submission"), "grader": str(grader)}).encode() + b"\n")
        said = read(process, 20.0)
        results[name] = judge(grader, said, listener.heard.decode("utf-8", "replace"))
        if process.poll() is not None or not said or said.get("silent"):
            stop(process)
        watch.clean(grader)
        shutil.rmtree(grader, ignore_errors=True)
    if process and process.poll() is None:
        stop(process)
    shutil.rmtree(home, ignore_errors=True)
    return results


def lay_out(grader: Path, files: dict[str, bytes]) -> None:
    """Write what naive.py has: its secrets, the submission, and right code as the next test; all of it its user's."""
    prepare(grader, f"SECRET-{os.urandom(8).hex()}")
    given = {name: (ROOT / file).read_bytes() for name, file in GIVEN.items()}
    for folder, code in (("submission", files), ("next", {TARGET: right_code().encode()})):
        for name, content in (given | code).items():
            target = grader / folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(learnt(content))
    if ROOTED:
        for path in (grader, *grader.rglob("*")):
            os.chown(path, USER, USER)


def judge(grader: Path, said: dict | None, heard: str) -> dict[str, str]:
    """Return which promises naive.py broke."""
    broken = {}
    left = watch.left(grader)
    if left:
        broken["left"] = ", ".join(left[:3])
        time.sleep(0.6)  # a daemon may write late
    if not said or not said.get("ended"):
        broken["bounded"] = "it did not end by itself"
    try:
        results = json.loads((grader / "results" / "results.json").read_text())
        if results["score"] > 1 or results["tests"].get("test_attacked"):
            broken["score"] = f"the wrong code has a point; score {results['score']}"
        if "test_attacked" not in results["tests"] or not said:
            broken["report"] = "the test is not in results.json"
        elif not results["tests"]["test_next"]:
            broken["next"] = "right code has no point"
    except (OSError, ValueError, KeyError) as error:
        broken["report"] = f"no results: {error}"
    printed = grader / "results" / "printed"
    if printed.is_file() and printed.stat().st_size > 10_000_000:
        broken["bounded"] = f"{printed.stat().st_size:,} bytes printed"
    text = (printed.read_text(errors="replace") if printed.is_file() else "") + heard
    if "SECRET" in text or "candidate" in text:
        broken["hidden"] = "a secret is in what was printed or sent"
    return broken
