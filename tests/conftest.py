"""What every test may use. The repository is the root of imports (`pythonpath` in pyproject.toml)."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # PyTorch, here and in processes started from here
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(workers))))

OPT_IN = {"slow": "take long or much memory", "network": "need the internet"}
LONGEST = ("test_contract.py", "test_starter.py", "test_process_group.py", "test_definition_rules.py", "test_matrix.py")
"""Files whose tests take the better part of a minute and more."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker, why in OPT_IN.items():
        parser.addoption(f"--{marker}", action="store_true", help=f"also run the tests that {why}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return how many processes run the tests: one for each core, but none besides this one where that is better.

    That is for single files and tests, where starting a worker takes longer than it saves, and where somebody wants to
    see the output at once or step through it.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    by_hand = config.getoption("capture") == "no" or config.getoption("trace")
    single = all(Path(config.invocation_params.dir, arg.partition("::")[0]).is_file() for arg in config.args)
    return 0 if by_hand or single or CORES == 1 else CORES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what bears an opt-in marker that was not asked for; pytest counts it as deselected.

    Files that take longest come first, so that at the end no worker works while the others wait.
    """
    unwanted = {marker for marker in OPT_IN if not config.getoption(f"--{marker}")}
    left_out = [item for item in items if any(mark.name in unwanted for mark in item.iter_markers())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def help_of() -> Callable[[str], str]:
    """help_of(script): what its --help prints; fails if that imports a package that takes long to import."""
    def run(script: str) -> str:
        code = (f"import runpy, sys; sys.argv = [{script!r}, '--help']\n"
                f"try: runpy.run_path({script!r}, run_name='__main__')\n"
                "finally: print([name for name in ('torch', 'numpy', 'sklearn', 'tokenizers') if name in sys.modules])")
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith("[]\n")
        return done.stdout
    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The course's own files, in a folder `shared` beside the repository; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the course's files in {folder}, which is not there")
    return folder
