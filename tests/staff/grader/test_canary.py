"""The canary must die of bad air: a sandbox that leaks, and a grader that takes points from the right answer."""

import dataclasses
from pathlib import Path

import pytest

from staff.grader import canary
from staff.grader.case import COMPONENTS
from staff.grader.sandbox import UIDS, Sandbox


@pytest.fixture(scope="module")
def reference(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in COMPONENTS.values()}


def test_everything_holds(box: Sandbox, reference: dict[str, bytes]) -> None:
    finding = canary.check(box, reference)
    assert set(finding.attacks.values()) <= {"stopped", "not stopped at this level"}
    assert box.level.reaches("L1") <= (set(finding.attacks.values()) == {"stopped"})
    assert finding.passed > 0 and f"the reference solution passes {finding.passed} tests" in str(finding)


def test_attacks_win_where_nothing_confines_them(reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
                                                 tmp_path: Path) -> None:
    """Level 0 alone: the secrets' file and results.json are lost, and reported. Claimed to be more, it is caught."""
    monkeypatch.setattr(canary, "grade_reference", lambda *_: 0)
    with Sandbox(allow=("L0",)) as bare:
        finding = canary.check(bare, reference, tmp_path)
        assert finding.attacks["read_files"] == finding.attacks["forge_results"] == "not stopped at this level"
        assert finding.attacks["outlive"] == "stopped"
        bare.level = dataclasses.replace(bare.level, held=("uid",))
        bare.uids = [None] * UIDS  # the level says that each test has a user, and none has
        with pytest.raises(canary.CanaryFailed, match=r"let an attack through: read files: it read .*canary-"):
            canary.check(bare, reference, tmp_path)


def test_a_surviving_daemon_is_seen(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack is pointed at a process that does live on, this one."""
    monkeypatch.setattr(canary.secrets, "token_hex", lambda _: Path("/proc/self/comm").read_text().strip())
    assert canary.outlive(box, canary.HERE) == "its process is still running"


def test_a_reference_that_loses_a_point_stops_everything(box: Sandbox, reference: dict[str, bytes]) -> None:
    broken = reference | {"modules/attention.py": b"raise RuntimeError('broken')"}
    with pytest.raises(canary.CanaryFailed, match=r"the reference solution fails attention\..*broken"):
        canary.grade_reference(box, broken, b"seed")


def test_an_attack_that_does_not_run_proves_nothing(box: Sandbox) -> None:
    with pytest.raises(canary.CanaryFailed, match="the attack read files did not run: KeyError"):
        canary.attack(box, "read_files")
