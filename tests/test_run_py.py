"""run.py: what setup.sh does, where there is no bash. Run on this system; of Windows, only its paths are simulated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def checkout(root, tmp_path):
    """A folder with run.py, setup.sh and no requirements, so that an installation takes a second."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("run.py", "setup.sh"):
        shutil.copy2(root / name, folder)
    (folder / "requirements.txt").write_text("# nothing\n")
    (folder / "hello.py").write_text("import sys\nprint('hello', sys.argv[1:], sys.prefix)\nsys.exit(7)\n")
    (folder / "course").mkdir()
    return folder


def run(checkout, *words, cwd=None, script="run.py"):
    start = [sys.executable, str(checkout / script)] if script == "run.py" else [str(checkout / script)]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHON": sys.executable}
    done = subprocess.run([*start, *words], cwd=cwd or checkout, capture_output=True, text=True, timeout=240,
                          env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_life_of_an_environment(checkout, tmp_path):
    """Catches: a script not found from another folder, a lost exit status, an installation too many or too few.

    One test, as each installation takes seconds.
    """
    done = run(checkout, "hello.py", "a b", cwd=tmp_path)
    assert done.returncode == 7 and done.stdout == f"hello ['a b'] {checkout / '.venv'}\n"
    assert "installing" in done.stderr
    assert run(checkout, "hello.py").stderr == ""
    assert run(checkout, "hello.py", script="setup.sh").stderr == ""  # one .venv, one stamp

    # A changed comment needs no installation. One that fails brings the earlier environment back.
    (checkout / "requirements.txt").write_text("# nothing at all\n\n")
    assert run(checkout, "hello.py").stderr == ""
    (checkout / "requirements.txt").write_text("./no-such-package\n")
    done = run(checkout, "hello.py")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("the earlier .venv is back")
    (checkout / "requirements.txt").write_text("# nothing\n")
    assert run(checkout, "hello.py").returncode == 7

    # Packages of an interrupted installation only look installed.
    (checkout / ".venv" / ".setup").write_text("unfinished")
    done = run(checkout, "hello.py", script="setup.sh")
    assert "installing" in done.stderr and done.returncode == 7
    assert run(checkout, "hello.py").stderr == ""


def test_somebody_elses_environment_is_left_alone(checkout):
    """Catches: a .venv deleted that the user made."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    done = run(checkout, "hello.py")
    assert done.returncode == 2 and "was not made by run.py" in done.stderr
    assert (checkout / ".venv" / "precious").exists()


def test_on_windows_the_interpreter_lies_elsewhere(root, monkeypatch):
    """Catches: bin/python looked for on Windows."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("run_py", root / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.python_in(Path("x")) == Path("x/bin/python")
    monkeypatch.setattr(module, "WINDOWS", True)
    assert module.python_in(Path("x")).as_posix() == "x/Scripts/python.exe"
