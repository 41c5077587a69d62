"""Every threat of docs/attacks.md, tried: on a grader without defences, on the sandbox, on what an ordinary user has.

A quick cut runs always, the whole with --slow. Linux only, as the grader.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile

import pytest

from staff.grader.oracles import attention
from staff.grader.sandbox import Reply
from tests.staff.grader.attacks import campaign, run, watch
from tests.staff.grader.attacks.__main__ import ELSEWHERE, THREATS, reasons, row
from tests.staff.grader.attacks.all import ATTACKS
from tests.staff.grader.attacks.attack import PROMISES, ROOT, TARGET, submission

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

QUICK = """read the grader's files / borrow the solution from the repository /
return the expected values that gc finds / read the environment of every process /
work only where it is not graded / patch what compares / write results.json /
a tensor that equals everything / write results.json when the verdict is out / os._exit(0) at once / raise SkipTest /
pickles in the submission / modules with the names of libraries / answers learnt by heart / rewrite the staged files /
send a reply and a verdict / send an error that is true / send a type that is code / a daemon / print a gigabyte /
files in the folders that everybody writes / shared memory, semaphores, queues / change the process for the next test /
a loop that does not end / a fork bomb of 200 / 3 GB of memory / close descriptors 0 to 255 / kill its parent /
send the inputs to a server""".replace("\n", " ").split(" / ")
SAFE = [name for name, attack in ATTACKS.items() if campaign.ROOTED or not attack.deadly]


def cut(request, names):
    """Return all names with --slow, else those of the quick cut."""
    return [name for name in names if request.config.getoption("--slow") or name in QUICK]


def every(names):
    """Give a test each name; those that are not in the quick cut need --slow."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                            for name in names])


@pytest.fixture(scope="module")
def naive(request):
    """What each attack does to a grader without defences."""
    if not campaign.ROOTED:
        pytest.skip("a grader without defences is attacked only as another user, which takes root")
    return campaign.naive(cut(request, WORKING))


@pytest.fixture(scope="module")
def full(request):
    """What each attack does to the sandbox with every level."""
    if not campaign.ROOTED:
        pytest.skip("only root has every level")
    return campaign.sandbox("full", cut(request, SAFE))


@pytest.fixture(scope="module")
def degraded(request):
    """What each attack does to the sandbox of an ordinary user, with L0 alone."""
    return campaign.sandbox("degraded", cut(request, SAFE))


WORKING = [name for name in SAFE if ATTACKS[name].breaks]


@pytest.mark.slow
@every(WORKING)
@pytest.mark.timeout(600)
def test_the_attack_works_where_nothing_stops_it(naive, name):
    """Catches: an attack that is none, so that the tests below prove nothing."""
    assert ATTACKS[name].breaks in naive[name], f"{naive[name]}: {PROMISES[ATTACKS[name].breaks]} still holds"


@every(SAFE)
@pytest.mark.timeout(900)
def test_every_promise_holds_at_the_full_level(full, name):
    """Catches: points won, a secret told, things left behind, a grader or a next test that suffers."""
    assert full[name]["ran"] or not ATTACKS[name].staged, f"the attack did not run: {full[name]['said']}"
    assert full[name]["broken"] == {}


@every(SAFE)
@pytest.mark.timeout(900)
def test_an_ordinary_user_without_levels_loses_what_is_written_down_and_no_more(degraded, name):
    """Catches: a promise that was held by L0 and is not any more."""
    assert degraded[name]["ran"] or not ATTACKS[name].staged, f"the attack did not run: {degraded[name]['said']}"
    unknown = {promise: what for promise, what in degraded[name]["broken"].items()
               if promise not in ATTACKS[name].degraded}
    assert unknown == {}


def test_every_threat_has_an_attack():
    """Catches: a threat without an attack or a test; a reference to no test; a quick cut of nothing."""
    tried = {threat for attack in ATTACKS.values() for threat in attack.threat.split()}
    assert tried <= THREATS.keys() and tried | ELSEWHERE.keys() == THREATS.keys()
    for place in [place for places in ELSEWHERE.values() for place in places]:
        file, _, test = place.partition("::")
        assert re.search(rf"^def {test}\(", (ROOT / "tests/staff/grader" / file).read_text(), re.M), place
    assert set(QUICK) <= ATTACKS.keys()
    for attack in ATTACKS.values():
        assert {attack.breaks} - {""} <= PROMISES.keys() and attack.degraded.keys() <= PROMISES.keys()
        ast.parse(submission(attack, "/nowhere")[TARGET])


def test_the_page_lists_every_attack():
    """Catches: a page that was not written again after attacks changed; a page with a promise that does not hold."""
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    for attack in ATTACKS.values():
        assert [line for line in lines if line.startswith(f"{row(attack)} holds | ")
                and line.endswith(f" {reasons(attack)}|")], attack.name
    assert len([line for line in lines if line.startswith("| T")]) == len(ATTACKS)


class Liar:
    """A sandbox that runs nothing, gives the right answer and a secret away, and leaves a file."""

    seconds = 1.0

    def run(self, files, request):
        with open(f"/tmp/attack-left-{os.getpid()}", "w"):
            return Reply({"y": attention(request.inputs)}, printed="SECRET-0")


class Dead:
    """A sandbox that fails."""

    seconds = 1.0

    def run(self, files, request):
        raise MemoryError


@pytest.mark.parametrize("sandbox, broken", [(Liar, {"score", "hidden", "left"}), (Dead, {"report", "next"})])
def test_the_harness_sees_broken_promises(tmp_path, monkeypatch, sandbox, broken):
    """Catches: a harness that calls everything fine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where nobody else makes files
    found = run.trial(ATTACKS["a daemon"], sandbox(), watch.Listener(tmp_path))
    assert found["broken"].keys() == broken and not found["ran"]


def test_the_harness_hears_two_lines_that_come_at_once(monkeypatch):
    """Catches: an attack blamed for the silence of the next, whose start was heard but not read."""
    code = """import os, time; os.write(1, b'{"attack": 1}\\n{"start": 2}\\n'); time.sleep(60)"""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **more: popen([sys.executable, "-c", code], **more))
    process = campaign.start("run", "full")
    try:
        assert [campaign.read(process, 10.0), campaign.read(process, 0.5)] == [{"attack": 1}, {"start": 2}]
        assert campaign.read(process, 0.1) == {"silent": True}
    finally:
        campaign.stop(process)
