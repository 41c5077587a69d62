"""The starter, as its student meets it; the whole proof is `./setup.sh -m staff.release prove` and docs/starter.md."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from staff.release import proof
from staff.release.build import ROOT, SOLUTION, build
from staff.release.leaks import leaks
from staff.release.markers import find_holes


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The starter with every hole open."""
    folder = tmp_path_factory.mktemp("release") / "starter"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The starter with every hole filled."""
    folder = tmp_path_factory.mktemp("release") / "finished"
    build(folder, filled=[hole.name for hole in proof.holes()])
    return folder


def run(tree, *words, timeout=250):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tree}:{tree / 'course'}", "HF_HUB_OFFLINE": "1",
                   "HOME": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=tree, capture_output=True, text=True, timeout=timeout,
                          env=environment)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_it_gives_nothing_away(raw, tmp_path):
    """Catches: a solution's line in any text, a marker, a staff file, a file that does not compile, too many bytes."""
    build(tmp_path / "again")
    for line in (proof.compiles(raw), proof.identical(raw, tmp_path / "again"), proof.restored(raw, ROOT),
                 proof.nothing_leaks(raw, ROOT, proof.holes()), proof.under_40_megabytes(raw)):
        assert line.holds, line


@pytest.mark.parametrize("text", [
    "hidden = F.gelu(self.interm_dense(self.out_layer_norm(stream)), approximate='tanh')",
    "z = q @ k.transpose(-2, -1) / math.sqrt(d)",
    "```python\nw.addcdiv_(mean, square.sqrt().add_(g['eps']), value=-size)\n```",
])
def test_a_leak_is_found_whatever_its_variables_are_called(text):
    """Catches: a search that goes by names; in documents, too."""
    holes = {hole.name: hole.text for hole in proof.holes()}
    assert leaks(holes, proof.IDIOMS, {"notes.md": text})
    assert not leaks(holes, proof.IDIOMS, {"notes.md": "Adam keeps two running means, m and v, for each p."})


def test_raw_it_says_what_to_write(raw):
    """Catches: a traceback, a check that passes on nothing, a message that does not say what comes next."""
    status, out, _ = run(raw, "sanity_check.py")
    assert status == 1 and "FAIL" not in out and "\n0 of " in out
    assert out.splitlines()[-1] == "next: write AdamW.step in optimizer.py (docs/assignment.md, section 1, AdamW)"
    for words, said in ((["optimizer_test.py"], "optimizer.py"), (["classifier.py", "--quick"], ".py:"),
                        (["prepare_submit.py", "--parts"], "optimizer.py:")):
        status, out, err = run(raw, *words)
        assert status in (1, 2) and said in out + err, (words, out, err)


def test_finished_it_trains_without_the_engine(finished, tmp_path):
    """Catches: a starter that needs a file that stayed at home."""
    status, out, err = run(finished, "classifier.py", "--quick", "--epochs", "1")
    assert status == 0, err
    assert "engine: not in this copy, your code runs" in out and "last-linear-layer, epoch 1" in out
    status, out, err = run(finished, "prepare_submit.py", "--parts")
    assert status == 0, out + err


def test_the_tour_finds_what_it_imports(finished):
    """Catches: a notebook in the starter that needs a room or a package which the starter has not."""
    cells = json.loads((finished / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    ours = {line.split()[1].split(".")[0] for line in imports} & {path.name for path in finished.iterdir()}
    assert {"data", "finetuning", "models", "serving", "training"} <= ours
    status, _, err = run(finished, "-c", "\n".join(imports))
    assert status == 0, err
    packages = (finished / "requirements.txt").read_text(encoding="utf-8")
    assert "\nmatplotlib==" in packages and "\nipykernel==" in packages


def test_a_part_is_checked_again_when_its_file_is_saved(raw, tmp_path):
    """Catches: a watcher that shows the file as it was, or that dies with the code it checks."""
    tree = tmp_path / "starter"
    shutil.copytree(raw, tree)
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'course'}", "PYTHONUNBUFFERED": "1"}
    with open(tmp_path / "said", "w+") as said, subprocess.Popen(
            [sys.executable, "sanity_check.py", "--watch", "--only", "layer"], cwd=tree, stdout=said,
            stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:  # a job may ignore it
        def wait_for(text, times=1):
            for _ in range(1200):
                if (tmp_path / "said").read_text().count(text) >= times:
                    return
                time.sleep(0.1)
            raise AssertionError((tmp_path / "said").read_text())

        try:
            wait_for("watching layer;")
            (tree / "modules/gpt2_layer.py").write_text("this is not Python")
            wait_for("cannot be imported")
            wait_for("watching layer;", 2)
            (tree / "modules/gpt2_layer.py").write_bytes((ROOT / "modules/gpt2_layer.py").read_bytes())
            wait_for("4 of 4 checks passed")
        finally:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
    assert "Traceback" not in (tmp_path / "said").read_text()


def test_the_committed_proof_holds_and_is_of_these_holes():
    """Catches: a page that shows another solution's proof, or one that failed."""
    page = (ROOT / "docs" / "starter.md").read_text(encoding="utf-8")
    assert "**no**" not in page
    for hole in proof.holes():
        assert f"checks with {hole.name} filled" in page and f"graded tests with {hole.name} filled" in page


@pytest.mark.timeout(600)
def test_the_whole_proof(tmp_path):
    """Catches: everything that docs/starter.md claims."""
    wrong = [line for line in proof.prove(tmp_path) if not line.holds]
    assert wrong == []


def test_hints_and_solution_name_the_same_files():
    """Catches: a sixth file of holes that the build does not know."""
    holes = json.loads((ROOT / "sanity" / "holes.json").read_text(encoding="utf-8"))
    assert {name.partition(": ")[0] for name in holes} == set(SOLUTION)
    assert all(find_holes(file, (ROOT / file).read_text(encoding="utf-8")) for file in SOLUTION)
