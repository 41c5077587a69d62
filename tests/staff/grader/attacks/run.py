"""Run attacks on the sandbox, one after another, and write a line of JSON about each: which promises were broken.

    python -m tests.staff.grader.attacks.run full|degraded NAME...
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from staff.grader.case import Case, Request, expect, generator
from staff.grader.cases.attention import example as inputs_of
from staff.grader.grade import run_case
from staff.grader.oracles import attention
from staff.grader.sandbox import Sandbox
from tests.staff.grader.attacks import watch
from tests.staff.grader.attacks.all import ATTACKS
from tests.staff.grader.attacks.attack import TARGET, Attack, right_code, submission

SECONDS = 2.0  # for a test
GRACE = 60.0  # seconds that a busy machine may take to end a test whose time is over, and to start a zygote
MEMORY = 200_000  # kB that the supervisor may grow by


def test(rng: np.random.Generator):
    """The whole formula"""
    inputs = inputs_of(rng)
    got = yield Request("attention.forward", inputs)
    expect("y", got, attention(inputs))


CASE = Case("attention.attacked", "The whole formula", test)


def example(seed: bytes) -> tuple[dict, np.ndarray]:
    """Return the inputs of the test under a seed, and what is right."""
    inputs = inputs_of(generator(seed, CASE.name))
    return inputs, attention(inputs)


def learnt(code: bytes) -> bytes:
    """Put the right answer to the public inputs into a submission that asks for it."""
    inputs, answer = example(b"public")
    table = {hashlib.sha256(inputs["x"].tobytes()).hexdigest(): answer.tolist()}
    return code.replace(b"PUBLIC = {}", f"PUBLIC = {table}".encode())


def prepare(folder: Path, secret: str) -> None:
    """Lay out what a grader has beside a submission, as Gradescope does, closed to other users."""
    for name, text in {"source/secret": secret, "source/points.json": f'{{"points": "{secret}"}}',
                       "submission_metadata.json": f'{{"previous_submissions": "{secret}"}}'}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    (folder / "results").mkdir()
    for name in ("source", "results"):
        (folder / name).chmod(0o700)


def peak() -> int:
    """Return the most memory that this process had, in kB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def trial(attack: Attack, box: Sandbox, listener: watch.Listener) -> dict:
    """Make one attack; return what was printed, and the promises that it broke."""
    secret = f"SECRET-{os.urandom(8).hex()}"
    grader = Path(tempfile.mkdtemp(prefix="autograder-"))
    grader.chmod(0o755)
    prepare(grader, secret)
    os.environ["TOKEN"] = secret
    files = submission(attack, str(grader), listener.port, listener.path, SECONDS)
    files[TARGET] = learnt(files[TARGET])
    seed = secret.encode()
    known, memory, began, listener.heard = set(os.listdir(grader.parent)), peak(), time.monotonic(), b""
    broken, said, status = {}, "", ""

    # The attacked test; nothing may come out of the grader but a verdict.
    try:
        outcome = run_case(CASE, files, box, seed)
        status = outcome.status
        reply = outcome.reply
        said = f"{reply.printed} {reply.error} {reply.message} {reply.place}" if reply else ""
        if reply and not all(type(text) is str for text in (reply.error, reply.message, reply.place, reply.printed)):
            broken["report"] = f"words that are no text: {reply}"[:200]
        if status not in ("passed", "failed", "not implemented"):
            broken["report"] = f"{status}: {outcome.measured[:200]}"
        json.dumps([outcome.measured, said]).encode()
        if len(outcome.measured) > 5000:
            broken["report"] = f"{len(outcome.measured)} characters about one failure"
        if outcome.passed:
            broken["score"] = "wrong code passed"
    except Exception as error:
        broken["report"] = f"the grader raised {type(error).__name__}: {str(error)[:200]}"
    took = time.monotonic() - began
    if attack.twice:
        again = run_case(CASE, files, box, b"public").reply
        carried = " ".join(f"{value:.6f}" for value in example(seed)[0]["x"].flatten()[:3])
        if carried in f"{again.printed} {again.message}":
            broken["hidden"] = f"the run on public inputs knows the hidden ones: {carried}"

    # The next test, of right code in the same sandbox, in all the time that a busy machine may need.
    box.seconds = 30.0
    try:
        outcome = run_case(CASE, {TARGET: right_code().encode()}, box, seed)
        if not outcome.passed:
            broken["next"] = f"{outcome.status}: {outcome.measured[:200]}"
    except Exception as error:
        broken["next"] = f"the grader raised {type(error).__name__}: {str(error)[:200]}"

    box.seconds = SECONDS

    # What is left, what was heard, what was forged.
    found = watch.left(grader) + [f"folder {name}" for name in set(os.listdir(grader.parent)) - known]
    if found:
        broken["left"] = ", ".join(sorted(found)[:3])
        time.sleep(0.5)  # a daemon may write late
    heard = listener.heard.decode("utf-8", "replace")
    expected = [f"{value:.6f}" for value in example(seed)[1].flatten()[:3]]
    if "SECRET" in said + heard or heard or all(value in said for value in expected):
        broken["hidden"] = next((line for line in (said + heard).splitlines() if "SECRET" in line), heard)[:200]
    if not (grader / "results").is_dir() or os.listdir(grader / "results"):
        broken["score"] = "results are forged or gone"
    if took > SECONDS + GRACE or peak() - memory > MEMORY:
        broken["bounded"] = f"{took:.1f} s, {(peak() - memory) // 1000} MB"
    watch.clean(grader)
    shutil.rmtree(grader, ignore_errors=True)
    return {"attack": attack.name, "ran": f"attack: {attack.name}" in said, "status": status, "broken": broken,
            "said": said[-600:], "seconds": round(took, 2)}


def main(level: str, names: list[str]) -> None:
    """Make the attacks named, in a sandbox with every level there is, or with L0 alone."""
    home = tempfile.mkdtemp(prefix="attacks-")
    os.chmod(home, 0o755)
    tempfile.tempdir = home
    listener = watch.Listener(Path(home))
    try:
        with Sandbox(seconds=SECONDS, **({"allow": ("L0",)} if level == "degraded" else {})) as box:
            for name in names:
                print(json.dumps({"start": name}), flush=True)
                print(json.dumps(trial(ATTACKS[name], box, listener)), flush=True)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
