"""Commit and reveal: secrets that stay secret, seeds that follow from them, receipts that can be compared."""

import hashlib
import hmac
import json
import stat
import subprocess

import pytest

from common.errors import UserError
from staff.grader import receipts
from staff.grader.receipts import changes, commitment, read_receipt, read_secret, seal, seed_of


def test_a_sealed_secret(tmp_path):
    """Catches: a secret that others can read, one that is overwritten, a hash that sha256sum does not give."""
    said = seal(tmp_path / "secret")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert subprocess.check_output(["sha256sum", tmp_path / "secret"], text=True).split()[0] == said
    assert commitment(read_secret(tmp_path / "secret")) == said
    assert seal(tmp_path / "other") != said
    with pytest.raises(UserError, match="exists"):
        seal(tmp_path / "secret")
    assert commitment(read_secret(tmp_path / "secret")) == said
    with pytest.raises(UserError, match="cannot write"):
        seal(tmp_path / "no" / "folder")


@pytest.mark.parametrize("content", [None, b"", b"short", b"g" * 64, b"A" * 64, b"\xff" * 64, b"a" * 65])
def test_what_is_no_secret(tmp_path, content):
    """Catches: an empty or mistyped secret, which everyone could guess."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UserError, match="secret"):
        read_secret(tmp_path / "secret")


def test_a_published_secret_may_end_in_a_line_end(tmp_path):
    """Catches: a secret copied from a web page that no longer matches its hash."""
    (tmp_path / "secret").write_bytes(b"a" * 64 + b"\r\n")
    assert read_secret(tmp_path / "secret") == b"a" * 64


def test_the_seed_is_an_hmac():
    """Catches: a seed that a student can compute before the secret is out, or that ignores the submission."""
    want = hmac.new(b"a" * 64, b"0123", hashlib.sha256).digest()
    assert seed_of(b"a" * 64, "0123") == want
    assert len({seed_of(secret, one) for secret in (b"a" * 64, b"b" * 64) for one in ("01", "02")}) == 4


def test_the_version_follows_every_file_that_decides(tmp_path):
    """Catches: points, a stub or the course's own file that changes a verdict under the same version."""
    version = receipts.version.__wrapped__  # without the memory of a process
    for name in ("staff/grader/points.json", "staff/mutants/a.py", "course/utils.py", "models/config.py"):
        before = version(tmp_path)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
        assert version(tmp_path) != before
    before = version(tmp_path)
    (tmp_path / "staff" / "grader" / "__pycache__").mkdir()
    (tmp_path / "staff" / "grader" / "__pycache__" / "a.pyc").write_text("1")
    (tmp_path / "README.md").write_text("1")
    assert version(tmp_path) == before
    (tmp_path / "staff" / "mutants" / "a.py").rename(tmp_path / "staff" / "mutants" / "b.py")
    assert version(tmp_path) != before


RECEIPT = {**dict.fromkeys(receipts.REASONS, "same"), "tests": {"a.one": "passed", "a.two": "failed"}}


@pytest.mark.parametrize("change, said", [
    ({}, []),
    ({"torch": "9"}, ["The verdict is the same, though this differs: PyTorch's version"]),
    ({"tests": {"a.one": "passed", "a.two": "passed"}, "grader": "9"},
     ["1 test changed its verdict; the grader's version changed", "  a.two: failed -> passed"]),
    ({"tests": {"a.one": "not run", "a.new": "failed"}, "secret": "9", "submission": "9"},
     ["3 tests changed their verdict; the submission, the secret changed", "  a.one: passed -> not run",
      "  a.new: no such test -> failed", "  a.two: failed -> no such test"]),
    ({"tests": {"a.one": "failed", "a.two": "failed"}},
     ["1 test changed its verdict, though nothing that a receipt names did", "  a.one: passed -> failed"]),
])
def test_what_a_regrade_changed(change, said):
    """Catches: a changed verdict that is not told, or without its reason."""
    assert changes(RECEIPT, RECEIPT | change) == said


def test_reading_a_receipt(tmp_path):
    """Catches: a results.json that is not taken for the receipt that it holds; a traceback for another file."""
    path = tmp_path / "file"
    for content in (RECEIPT, {"extra_data": {"receipt": RECEIPT}, "tests": []}):
        path.write_text(json.dumps(content))
        assert read_receipt(path) == RECEIPT
    for content in ("", "[]", "{}", "3", '{"tests": {}}', '{"extra_data": [], "tests": []}', "\udcff"):
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="receipt"):
            read_receipt(path)
    with pytest.raises(UserError, match="cannot read"):
        read_receipt(tmp_path / "missing")
