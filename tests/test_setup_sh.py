"""setup.sh, as a copy with an interpreter that only pretends to install (one test installs for real)."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.skipif(os.name != "posix", reason="setup.sh is for macOS and Linux")

# `python -m venv DIR` puts the second script in place; its pip notes that it ran, then does $PIP_DOES.
BASE_PYTHON = """#!/bin/bash
if [ "$1 $2" != "-m venv" ]; then exec "{real}" "$@"; fi
mkdir -p "$3/bin" && cp "$0.venv" "$3/bin/python"
"""
VENV_PYTHON = """#!/bin/bash
if [ "$1 $2" != "-m pip" ]; then exec "{real}" "$@"; fi
echo $$ >> "{log}"
eval "${{PIP_DOES:-}}"
"""
SHOW = "import os, sys; print(sys.argv[1:], os.getcwd()); sys.exit(int(sys.argv[1]) if sys.argv[1:] else 0)"


class Checkout:
    """A folder with setup.sh and a script show.py, and the pretending interpreter that it is run with."""

    def __init__(self, folder: Path):
        self.root = folder / "my checkout"
        self.pips = folder / "pips"
        self.root.mkdir()
        shutil.copy(Path(__file__).parent.parent / "setup.sh", self.root)
        (self.root / "requirements.txt").write_text("anything==1.0\n")
        (self.root / "show.py").write_text(SHOW)
        base = folder / "python"
        for path, text in [(base, BASE_PYTHON), (Path(f"{base}.venv"), VENV_PYTHON)]:
            path.write_text(text.format(real=sys.executable, log=self.pips))
            path.chmod(0o755)
        self.env = {**os.environ, "PYTHON": str(base), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *args: str, script: object = None) -> list[str]:
        return ["bash", str(script or self.root / "setup.sh"), *args]

    def run(self, *args: str, script: object = None, cwd: Path | None = None, stdin: str = "",
            **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*args, script=script), cwd=cwd or self.root, input=stdin,
                              env={**self.env, **env}, capture_output=True, text=True, timeout=240)

    def start(self, *args: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*args), cwd=self.root, env={**self.env, **env}, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def installs(self) -> int:
        return len(self.pips.read_text().split()) if self.pips.exists() else 0


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_installs_once_then_only_runs(checkout):
    """Catches: an install at every start, a lost exit status, arguments split or dropped."""
    words = ["7", "two words", "", "*"]
    for _ in range(2):
        done = checkout.run("show.py", *words)
        assert (done.returncode, done.stdout) == (7, f"{words} {checkout.root}\n"), done.stderr
    assert checkout.installs() == 1


def test_output_and_input_belong_to_the_command(checkout):
    """Catches: messages of the install mixed into the command's output, or pip eating its input."""
    done = checkout.run("-c", "print(input())", stdin="hello\n", PIP_DOES="echo Collecting; cat")
    assert done.stdout == "hello\n"
    assert "installing" in done.stderr and "Collecting" in done.stderr


@pytest.mark.parametrize("way", ["absolute", "inside", "link to file", "relative link", "link to folder"])
def test_found_from_anywhere(checkout, tmp_path, way):
    """Catches: a root taken from the current directory, or from where a link lies, not where it points."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    script, cwd = {
        "absolute": (checkout.root / "setup.sh", elsewhere),
        "inside": ("setup.sh", checkout.root),
        "link to file": (elsewhere / "link", elsewhere),
        "relative link": ("./second", elsewhere),
        "link to folder": ("linked folder/setup.sh", elsewhere),
    }[way]
    (elsewhere / "link").symlink_to(checkout.root / "setup.sh")
    (elsewhere / "second").symlink_to(Path("../else where/link"))
    (elsewhere / "linked folder").symlink_to(checkout.root)
    done = checkout.run("show.py", script=script, cwd=cwd)
    assert (done.returncode, done.stdout) == (0, f"[] {cwd}\n"), done.stderr
    assert (checkout.root / ".venv/bin/python").exists()


def test_a_dotted_script_is_taken_as_written(checkout, tmp_path):
    """Catches: a repository script that hides the user's own."""
    (tmp_path / "show.py").write_text("print('mine')")
    assert checkout.run("./show.py", cwd=tmp_path).stdout == "mine\n"
    assert checkout.run("show.py", cwd=tmp_path).stdout == f"[] {tmp_path}\n"
    (tmp_path / "other.py").write_text("print('other')")
    assert checkout.run("other.py", cwd=tmp_path).stdout == "other\n"  # the repository has none of that name


def test_modules_and_tests_from_another_directory(checkout, tmp_path):
    """Catches: `-m room.module` that works only at the root; `-m pytest` that tests the current directory."""
    (checkout.root / "room").mkdir()
    (checkout.root / "room/where.py").write_text("import os; print(os.getcwd())")
    assert checkout.run("-m", "room.where", cwd=tmp_path).stdout == f"{tmp_path}\n"
    (checkout.root / "test_it.py").write_text("def test_it(): pass")
    (tmp_path / "test_not_ours.py").write_text("def test_not(): assert False")
    done = checkout.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_failed_install_is_not_taken_for_a_finished_one(checkout):
    """Catches: a stamp written before pip is done; leftovers of a failed install kept."""
    done = checkout.run("show.py", PIP_DOES=f'touch "{checkout.root}/.venv/half"; echo offline >&2; exit 1')
    assert done.returncode == 2 and done.stdout == ""
    assert "offline" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: pip could not install")
    assert checkout.run("show.py").returncode == 0
    assert checkout.installs() == 2 and not (checkout.root / ".venv/half").exists()


def test_a_killed_install_is_not_taken_for_a_finished_one(checkout):
    """Catches: believing a .venv whose install was cut short; a lock left behind by the dead; starting over
    while the pip of a killed setup.sh still writes into the same .venv."""
    killed = checkout.start("show.py", PIP_DOES=f'touch "{checkout.root}/.venv/half"; exec sleep 60')
    wait_for((checkout.root / ".venv/half").exists)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    second = checkout.start("show.py")
    assert "waiting" in second.stderr.readline()
    assert second.poll() is None and checkout.installs() == 1
    os.kill(int(checkout.pips.read_text()), signal.SIGKILL)
    out, err = second.communicate(timeout=120)
    assert (second.returncode, out) == (0, f"[] {checkout.root}\n"), err
    assert checkout.installs() == 2 and not (checkout.root / ".venv/half").exists()


def test_first_runs_at_the_same_time_install_once(checkout):
    """Catches: two pips in one .venv, or a second run that uses what the first has not finished."""
    runs = [checkout.start("show.py", "3", PIP_DOES="sleep 0.5") for _ in range(3)]
    ends = [(run.communicate(timeout=240), run.returncode) for run in runs]
    assert [status for _, status in ends] == [3, 3, 3], ends
    assert checkout.installs() == 1


@pytest.mark.parametrize("change", ["requirements", "moved", "python gone", "python version"])
def test_what_makes_an_install_stale(checkout, change):
    """Catches: a stamp that says "installed" whatever happened to the checkout since."""
    assert checkout.run("show.py").returncode == 0
    stamp = checkout.root / ".venv/.setup"
    if change == "requirements":
        (checkout.root / "requirements.txt").write_text("anything==2.0\n")
    elif change == "moved":
        checkout.root = checkout.root.rename(checkout.root.parent / "moved")
    elif change == "python gone":
        (checkout.root / ".venv/bin/python").unlink()
    else:  # as after an upgrade of the system's python3
        stamp.write_text(stamp.read_text().replace("Python 3.", "Python 2."))
    done = checkout.run("show.py")
    assert done.returncode == 0, done.stderr
    assert checkout.installs() == 2 and not (checkout.root / ".venv.old").exists()


@pytest.mark.parametrize("how", ["moved", "requirements", "killed", "interrupted"])
def test_a_failed_install_gives_the_earlier_one_back(checkout, how):
    """Catches: a working .venv deleted before the new one is complete: offline it cannot be made again."""
    assert checkout.run("show.py").returncode == 0
    (checkout.root / ".venv/mine").write_text("keep")
    if how == "moved":
        checkout.root = checkout.root.rename(checkout.root.parent / "moved")
    else:
        (checkout.root / "requirements.txt").write_text("anything==2.0\n")
    if how == "killed":
        killed = checkout.start("show.py", PIP_DOES="kill -9 $PPID; exit 1")
        assert killed.wait(120) == -signal.SIGKILL and not (checkout.root / ".venv/mine").exists()
        killed.communicate()
    done = checkout.run("show.py", PIP_DOES="kill -INT $PPID; exit 1" if how == "interrupted" else "exit 1")
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        "error: pip could not install requirements.txt (see above); the earlier .venv is back, "
        f"and {checkout.root}/.venv/bin/python runs as before")
    assert (checkout.root / ".venv/mine").read_text() == "keep"
    assert sorted(path.name for path in checkout.root.glob(".venv?*")) == [".venv.lock"]
    before = checkout.installs()
    assert checkout.run("show.py").returncode == 0  # with a network again
    assert checkout.installs() == before + 1 and not (checkout.root / ".venv/mine").exists()
    assert sorted(path.name for path in checkout.root.glob(".venv?*")) == [".venv.lock"]


def test_requirements_that_are_as_before_again_need_no_install(checkout):
    """Catches: an install after a killed one although the earlier .venv is what is asked for."""
    assert checkout.run("show.py").returncode == 0
    (checkout.root / "requirements.txt").write_text("anything==2.0\n")
    checkout.start("show.py", PIP_DOES="kill -9 $PPID; exit 1").communicate()
    (checkout.root / "requirements.txt").write_text("anything==1.0\n")
    assert checkout.run("show.py", PIP_DOES="exit 1").returncode == 0 and checkout.installs() == 2


def test_a_comment_in_the_requirements_needs_no_install(checkout):
    """Catches: minutes of pip, or offline the end of work, for a changed comment or blank line."""
    assert checkout.run("show.py").returncode == 0
    (checkout.root / "requirements.txt").write_text("# why\n\nanything==1.0  # as the course\n   # end\n")
    assert checkout.run("show.py", PIP_DOES="exit 1").returncode == 0 and checkout.installs() == 1
    (checkout.root / "requirements.txt").write_text("anything==1.0 # x\nmore@https://x/#egg=more\n")
    assert checkout.run("show.py").returncode == 0 and checkout.installs() == 2
    (checkout.root / "requirements.txt").write_text("anything==1.0\nmore@https://x/#egg=other\n")
    assert checkout.run("show.py").returncode == 0 and checkout.installs() == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always puts the current folder first")
def test_a_module_of_the_current_folder_hides_no_other(checkout, tmp_path):
    """Catches: running a json.py or pooch.py that lies where one happens to be."""
    (checkout.root / "room").mkdir()
    (checkout.root / "room/where.py").write_text("import json, sys; print(json.__file__, sys.argv[1:])")
    (tmp_path / "json.py").write_text("raise SystemExit('hidden')")
    done = checkout.run("-m", "room.where", "a b", cwd=tmp_path)
    assert done.returncode == 0 and "json/__init__.py ['a b']" in done.stdout, done.stderr


def test_somebody_elses_venv_is_left_alone(checkout):
    """Catches: deleting an environment the user made; and taking one for installed that merely exists."""
    (checkout.root / ".venv/bin").mkdir(parents=True)
    (checkout.root / ".venv/bin/python").symlink_to(sys.executable)
    done = checkout.run("show.py")
    assert done.returncode == 2 and "was not made by setup.sh" in done.stderr
    assert (checkout.root / ".venv/bin/python").is_symlink() and checkout.installs() == 0


NO_VENV = '#!/bin/bash\ncase "$2" in *ensurepip*) exit 1 ;; *) exec "{real}" "$@" ;; esac\n'
TOO_OLD = "#!/bin/bash\nexit 1\n"


@pytest.mark.parametrize("names, chosen, said", [
    ({}, None, "no Python 3.10 or newer found (tried: python3.13"),
    ({"python3": TOO_OLD, "python": TOO_OLD}, None, "no Python 3.10 or newer found"),
    ({"python3": NO_VENV}, None, "python3 has no venv and pip modules"),
    ({"python3": BASE_PYTHON}, "nowhere/python", "no Python 3.10 or newer found (tried: nowhere/python)"),
])
def test_without_a_usable_python_one_clear_line(checkout, tmp_path, names, chosen, said):
    """Catches: a bare "command not found", a traceback, or quietly using another python than the chosen."""
    only = tmp_path / "bin"
    only.mkdir()
    for name, text in names.items():
        (only / name).write_text(text.format(real=sys.executable))
        (only / name).chmod(0o755)
    checkout.env.pop("PYTHON")
    env = {"PYTHON": chosen} if chosen else {}
    command = [shutil.which("bash"), *checkout.command("show.py")[1:]]
    env = {**checkout.env, **env, "PATH": str(only)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1, done.stderr


def test_a_broken_newer_python_is_passed_over(checkout, tmp_path):
    """Catches: choosing a python by its name alone (version managers leave names that only fail)."""
    only = tmp_path / "bin"
    only.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3.10"):
        (only / name).write_text(TOO_OLD)
        (only / name).chmod(0o755)
    (only / "python3").symlink_to(tmp_path / "python")
    (only / "python3.venv").symlink_to(tmp_path / "python.venv")
    done = checkout.run("show.py", PYTHON="", PATH=f"{only}:/usr/bin:/bin")
    assert done.returncode == 0 and checkout.installs() == 1, done.stderr


def test_without_arguments_it_says_what_is_next(checkout):
    """Catches: a silent end, or a python prompt, where a newcomer waits for the next step."""
    done = checkout.run()
    assert done.returncode == 0 and checkout.installs() == 1
    assert "./setup.sh classifier.py --quick" in done.stdout
    assert "./setup.sh -m pytest" in checkout.run("--help").stdout


def test_sourcing_is_refused(checkout):
    """Catches: `source setup.sh`, the habit from conda set-ups, replacing the user's shell with python."""
    done = subprocess.run(["bash", "-c", ". ./setup.sh; echo status $?"], cwd=checkout.root, env=checkout.env,
                          capture_output=True, text=True, timeout=240)
    assert done.stdout == "status 2\n" and "sourced" in done.stderr and checkout.installs() == 0


@pytest.mark.parametrize("command", ["readlink", "python", "env"])
def test_no_ctrl_c_is_forgotten(checkout, tmp_path, command):
    """Catches: a bash that goes on after a Ctrl-C, because the command that it waited for had just done its work."""
    (checkout.root / "show.py").write_text("from finetuning.settings import Settings")
    checkout.run("show.py")  # installs
    (tmp_path / "link").symlink_to(checkout.root / "setup.sh")
    place = checkout.root / ".venv/bin" if command == "python" else tmp_path / "bin"
    usual = sys.executable if command == "python" else shutil.which(command)
    place.mkdir(exist_ok=True)
    (place / command).write_text(f"#!/bin/bash\ntrap '' INT\nkill -INT 0\nsleep 0.1\nexec '{usual}' \"$@\"\n")
    (place / command).chmod(0o755)
    done = subprocess.run(checkout.command("show.py", script=tmp_path / "link"), capture_output=True, timeout=240,
                          env={**checkout.env, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
                          start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_no_command_is_left_unwaited(checkout):
    """Catches: a child of the shell's that the script inherits, and meets in its os.wait()."""
    code = "import os\ntry: os.waitpid(-1, 0)\nexcept ChildProcessError: print('none')"
    (checkout.root / "show.py").write_text(code)
    for _ in range(5):
        assert checkout.run("show.py").stdout == "none\n"


def test_little_time_is_added(checkout):
    """Catches: a check that starts pip or hashes the environment at every start."""
    checkout.run()

    def least(command):
        seconds = []
        for _ in range(3):  # of the processors, not of the clock: other tests run at the same time
            before = os.times()
            subprocess.run(command, cwd=checkout.root, env=checkout.env, check=True)
            after = os.times()
            seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(seconds)
    added = least(checkout.command("-S", "-c", "")) - least([sys.executable, "-S", "-c", ""])
    assert added < 0.5, f"{added:.2f} s"


def test_a_real_install(checkout, tmp_path):
    """Catches: a venv or pip call that does not work; pip refusing a venv where --user is the default."""
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy.py", "answer = 42")
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr("toy-1.0.dist-info/WHEEL",
                         "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.0.dist-info/RECORD", "toy.py,,\ntoy-1.0.dist-info/METADATA,,\n"
                         "toy-1.0.dist-info/WHEEL,,\ntoy-1.0.dist-info/RECORD,,\n")
    (checkout.root / "requirements.txt").write_text(f"{wheel}\n")
    done = checkout.run("-c", "import sys, toy; print(toy.answer, sys.prefix)", PYTHON=sys.executable,
                        PIP_NO_INDEX="1", PIP_USER="1")
    assert (done.returncode, done.stdout) == (0, f"42 {checkout.root}/.venv\n"), done.stderr


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.13"])
def test_pins_are_exact_and_within_the_declared_ranges(root, version):
    """Catches: a dependency declared but not pinned, a pin outside its own range, a loose or double pin."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    lines = [line.split("#")[0].strip() for line in (root / "requirements.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    pins = [pin for pin in pins if not pin.marker or pin.marker.evaluate({"python_version": version})]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    exact = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(exact) == len(pins)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(text) for text in [*project["dependencies"],
                                             *itertools.chain(*project["optional-dependencies"].values())]]
    assert {wanted.name for wanted in ranges} == set(exact)
    assert [wanted.name for wanted in ranges if not wanted.specifier.contains(exact[wanted.name])] == []
