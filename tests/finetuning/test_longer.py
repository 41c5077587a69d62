"""Training longer and predicting more are the same run; and which defaults a run takes, and why."""

import json
import shutil

import pytest

from common.errors import UserError
from data.tasks import TASKS
from data.tokenizer import Tokenizer
from finetuning.features import read_splits
from finetuning.recipes import COURSE_DEFAULTS, TINY_DEFAULTS
from finetuning.settings import TINY, Settings
from tests.finetuning.test_run import finish, folder, settings_for, text, write  # noqa: F401 (folder: a fixture)
from training.runs.checkpoint import CheckpointError
from training.runs.session import OtherRun

CONSTANT = {"schedule": "constant", "warmup": 0.0}


@pytest.mark.parametrize("mode", ["last-linear-layer", "full-model"])
def test_a_longer_run_is_the_run_that_was_long_from_the_start(folder, tmp_path, mode):  # noqa: F811
    """Catches a run refused because it is to go on, and one that begins again or goes on in another way."""
    whole = finish(folder, tmp_path / "whole", mode, epochs=4, **CONSTANT)
    finish(folder, tmp_path / "longer", mode, epochs=2, **CONSTANT)
    longer = finish(folder, tmp_path / "longer", mode, epochs=4, resume=True, **CONSTANT)
    assert "epoch 2/4" not in longer.printed and "epoch 3/4" in longer.printed
    assert (longer.run / "log.jsonl").read_bytes() == (whole.run / "log.jsonl").read_bytes()
    assert longer.json("result.json") == whole.json("result.json")
    assert longer.predictions("test") == whole.predictions("test")
    assert (longer.run / "model" / "model.safetensors").read_bytes() \
        == (whole.run / "model" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="checkpoint is at epoch 4, this run ends at epoch 3"):
        finish(folder, tmp_path / "longer", mode, epochs=3, resume=True, **CONSTANT)


@pytest.mark.parametrize("schedule", [{"schedule": "linear"}, {"schedule": "constant", "warmup": 0.5}], ids=str)
def test_a_longer_run_of_another_schedule_is_refused_and_told_why(folder, tmp_path, schedule):  # noqa: F811
    """Catches a rate that is resumed half-way down as if the run had always been longer."""
    finish(folder, tmp_path, "last-linear-layer", epochs=1, **schedule)
    with pytest.raises(OtherRun) as error:
        finish(folder, tmp_path, "last-linear-layer", epochs=2, resume=True, **schedule)
    first, second = str(error.value).split("\n")
    assert "recipe.epochs was '1', is '2'" in first
    assert second.startswith("Only a run with a constant learning rate and no warmup can be trained longer")
    with pytest.raises(OtherRun, match="Give the settings it was started with"):
        finish(folder, tmp_path, "last-linear-layer", epochs=2, lr=1.0, resume=True, **schedule)


def test_another_test_file_is_predicted_by_the_same_run(folder, tmp_path):  # noqa: F811
    """Catches a finished run that must be trained again for a few new texts."""
    first = finish(folder, tmp_path, "last-linear-layer", **CONSTANT)
    best = (first.run / "best.json").read_bytes()
    new = write(tmp_path / "new.csv", range(300, 305), column=None)
    more = finish(folder, tmp_path, "last-linear-layer", test=new, resume=True, **CONSTANT)
    assert [line.split(b",")[0] for line in more.predictions("test").splitlines()[1:]] \
        == [b"id%d" % number for number in range(300, 305)]
    assert "epoch 1/" not in more.printed and (more.run / "best.json").read_bytes() == best


def test_the_end_of_a_text_is_kept(folder, tmp_path):  # noqa: F811
    """Catches --keep-end that does not reach the texts: their verdict comes last, after filler that is the same."""
    filler = "film " * 40

    def file(name, numbers):
        rows = [f"id{number}\t{filler}{text(number)}\t{number % 2}" for number in numbers]
        (tmp_path / name).write_text("\n".join(["id\tsentence\tsentiment", *rows]) + "\n")
        return tmp_path / name

    files = {"train": file("train.csv", range(12)), "dev": file("dev.csv", range(20, 24)), "test": None}
    tokenizer = Tokenizer.load(folder / "model")
    for keep_end in (False, True):
        task, = settings_for(folder, tmp_path, **files, max_length=8, keep_end=keep_end).tasks()
        rows = read_splits(task, tokenizer, task.max_length)["dev"].dataset
        ids = tokenizer.encode([filler + text(number) for number in range(20, 24)], 1000, False).ids
        assert [rows.collate([row]).input_ids[0].tolist() for row in range(4)] \
            == [row[-8:] if keep_end else row[:8] for row in ids]
    done = finish(folder, tmp_path / "run", "last-linear-layer", **files, max_length=8, keep_end=True, epochs=1)
    assert "cut to their last 8 tokens" in done.printed
    assert json.loads((done.run / "model" / "serving.json").read_text())["keep_end"] is True


@pytest.mark.parametrize("mode", ["last-linear-layer", "full-model"])
def test_a_copy_of_gpt2_tiny_is_gpt2_tiny(mode, tmp_path):
    """Catches the course's tiny steps on the bundled model, or one made from it, when it lies elsewhere."""
    copy = shutil.copytree(TINY, tmp_path / "mine")
    settings = Settings(model=str(copy), fine_tune_mode=mode)
    assert settings.recipe(TASKS["sst-sample"]) == TINY_DEFAULTS["sst-sample", mode]
    assert settings.which_defaults == "settings: those measured for gpt2-tiny, as the backbone's config.json says"
    config = json.loads((copy / "config.json").read_text())
    for note in (None, "gpt2-medium", 3):
        (copy / "config.json").write_text(json.dumps({**config, "fine_tune_like": note}))
        assert settings.recipe(TASKS["sst-sample"]) == COURSE_DEFAULTS[mode]
        assert settings.which_defaults == "settings: the course's, as none are measured for this backbone"
    assert Settings(model="gpt2-tiny").which_defaults == "settings: those measured for gpt2-tiny"


def test_the_first_lines_say_which_defaults(folder, tmp_path):  # noqa: F811
    """Catches a run whose settings nobody can explain."""
    done = finish(folder, tmp_path, "last-linear-layer", epochs=1)
    assert "settings: the course's, as none are measured" in done.printed.split("\nown, last-linear-layer")[0]


def test_a_head_is_kept_or_forgotten():
    """Catches two flags that ask for opposite things."""
    with pytest.raises(UserError, match="--keep-head keeps what was learned, --random-backbone forgets it"):
        Settings(keep_head=True, random_backbone=True)
