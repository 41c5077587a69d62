"""What every test may use. The repository is the root of imports (`pythonpath` in pyproject.toml)."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


OPT_IN = {"slow": "take long or much memory", "network": "need the internet"}


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker, why in OPT_IN.items():
        parser.addoption(f"--{marker}", action="store_true", help=f"also run the tests that {why}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what bears an opt-in marker that was not asked for; pytest counts it as deselected."""
    unwanted = {marker for marker in OPT_IN if not config.getoption(f"--{marker}")}
    left_out = [item for item in items if any(mark.name in unwanted for mark in item.iter_markers())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


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
