"""Six sets of five files, written from the course's contract by people who never saw ours, in the place of ours.

They are in tests/contract/sets, one folder each: plain, einops (the course's starter style), own-base (brings its own
config, utils and base class), verbose, minimal, and course-program (whose classifier.py is a program of its own).
"""

import contextlib
import importlib
import io
import json

import pytest

from tests.contract import trial
from tests.finetuning.test_run import folder, settings_for  # noqa: F401 (a fixture)

HAT = "engine: optimizer.py differs"
"""What is said of an AdamW in another right form: it runs as it is."""


@pytest.mark.parametrize("file", trial.FILES)
@pytest.mark.parametrize("name", trial.names())
def test_each_file_alone_passes_its_checks(name, file, tmp_path):
    """Catches: a check that asks for more than the contract, or that knows one way to be right."""
    with trial.in_place_of_ours(trial.copy_of(name, tmp_path, only=file)):
        assert trial.failures(file) == []


def trained(name, only, mode, folder, tmp_path):  # noqa: F811
    """Fine-tune on a tiny task with a set's files, or one of them, in the place of ours; (what it printed, result)."""
    settings = settings_for(folder, tmp_path, fine_tune_mode=mode)
    files = tmp_path / "files"
    with trial.in_place_of_ours(trial.copy_of(name, files, only)), contextlib.redirect_stdout(io.StringIO()) as out:
        run = importlib.import_module("finetuning.run")
        run.keep_freed_memory = lambda: None
        run.run(settings, importlib.import_module("classifier").GPT2SentimentClassifier)
        where = importlib.import_module((only or "models/gpt2.py").removesuffix(".py").replace("/", ".")).__file__
    assert str(files) in where, "our own file was tried"
    return out.getvalue(), json.loads((tmp_path / "runs" / f"own-{mode}" / "result.json").read_text())


@pytest.mark.parametrize("mode", ["last-linear-layer", "full-model"])
@pytest.mark.parametrize("only", [*trial.FILES, None])
@pytest.mark.parametrize("name", trial.names())
def test_each_file_alone_and_each_set_trains(name, only, mode, folder, tmp_path):  # noqa: F811
    """Catches: an import, an argument or an attribute beyond the contract's; an engine that refuses what is right."""
    printed, result = trained(name, only, mode, folder, tmp_path)
    assert result["run"]["examples"] == 9
    said = [line for line in printed.splitlines() if line.startswith(("engine:", "classifier.py"))]
    hat = name == "einops" and only in ("optimizer.py", None)
    assert said and all(HAT in line if hat else "agrees with your code" in line for line in said), said


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name if name in ("einops", "own-base") else pytest.param(name, marks=pytest.mark.slow)
                                  for name in trial.names()])
def test_each_set_in_every_script(name, tmp_path):
    """Catches: a script that needs one of our own files. (Two sets; with --slow, all six.)"""
    for title, (status, output) in trial.run_scripts(name, tmp_path).items():
        assert status == 0, (title, output[-3000:])
        assert "Traceback" not in output and "FAIL" not in output and "TODO" not in output, (title, output[-3000:])


@pytest.mark.parametrize("mistake", trial.MISTAKES, ids=lambda mistake: mistake["name"])
def test_each_mistake_is_named(mistake, tmp_path):
    """Catches: a mistake of real students that passes, or is called unknown. Two are right in another way, and pass."""
    edit = mistake["old"], mistake["new"]
    with trial.in_place_of_ours(trial.copy_of(mistake["set"], tmp_path, only=mistake["file"], edit=edit)):
        said = trial.failures(mistake["file"])
    if mistake["words"] is None:
        assert said == []
    else:
        assert any(mistake["words"] in line for line in said), said
        assert "no known mistake" not in said[0]


def test_a_course_program_is_told_apart(tmp_path):
    """Catches: a classifier.py with its own command line and loop that nobody tells how to use ours."""
    status, output = trial.run_scripts("course-program", tmp_path, ["sanity_check.py"])["sanity_check.py"]
    assert "./setup.sh -m finetuning" in output and status == 0
