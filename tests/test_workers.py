"""How many processes run the tests: tests/conftest.py decides, for `-n auto` in pyproject.toml."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import conftest


@pytest.mark.parametrize("args, options, workers", [
    (["tests"], {}, 4),
    (["tests/common", "tests/test_doors.py"], {}, 4),
    (["tests/test_doors.py"], {}, 0),
    (["tests/test_doors.py::test_it[a::b]", "tests/test_docs.py"], {}, 0),
    (["tests"], {"capture": "no"}, 0),
    (["tests"], {"trace": True}, 0),
])
def test_workers(root, monkeypatch, args, options, workers):
    """Catches: workers started for one file; output that -s asks for lost in them; a suite that runs on one core."""
    monkeypatch.setattr(conftest, "CORES", 4)
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    config = SimpleNamespace(args=args, invocation_params=SimpleNamespace(dir=root),
                             getoption=lambda name: options.get(name))
    assert conftest.pytest_xdist_auto_num_workers(config) == workers


def test_a_worker_takes_its_share_of_the_threads(root):
    """Catches: two workers with a thread for every core each; a number that the user chose changed."""
    environment = {**os.environ, "PYTEST_XDIST_WORKER_COUNT": str(conftest.CORES)}
    environment.pop("OMP_NUM_THREADS", None)
    code = "import os; from tests import conftest; print(os.environ['OMP_NUM_THREADS'])"
    for given, threads in (({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True,
                              env={**environment, **given})
        assert done.stdout == f"{threads}\n"
