"""The settings of classifier.py: flags, defaults by mode and backbone, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common import cli
from common.errors import UserError
from data.columns import Options
from data.tasks import TASKS
from finetuning.recipes import COURSE_DEFAULTS, TINY_DEFAULTS
from finetuning.settings import TINY, Settings

OWN = {"train": Path("a.csv"), "dev": Path("b.csv"), "num_labels": 3}


def parse(*words):
    parser = cli.Parser()
    cli.add_arguments(parser, Settings)
    return cli.from_arguments(Settings, parser.parse_args(words))


def test_every_flag_of_the_course_in_both_spellings():
    """Catches a flag of the course's scripts that is gone, or accepted with - only or with _ only."""
    for mark in "-_":
        settings = parse("--seed", "7", "--epochs", "3", f"--fine{mark}tune{mark}mode", "full-model",
                         f"--use{mark}gpu", f"--batch{mark}size", "16", f"--hidden{mark}dropout{mark}prob", "0.1",
                         "--lr", "2e-5")
        assert settings == Settings(seed=7, epochs=3, fine_tune_mode="full-model", use_gpu=True, batch_size=16,
                                    hidden_dropout_prob=0.1, lr=2e-5)


def test_without_flags_it_is_the_course():
    """Catches a changed default: seed 11711, GPT-2 124M frozen, SST and then CFIMDB, 10 epochs, dropout 0.3."""
    settings = parse()
    assert (settings.seed, settings.backbone, settings.fine_tune_mode) == (11711, "gpt2", "last-linear-layer")
    assert [task.name for task in settings.tasks()] == ["sst", "cfimdb"]
    recipe = settings.recipe(TASKS["sst"])
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.dropout) == (1e-3, 10, 8, 0.3)
    assert (recipe.schedule, recipe.warmup, recipe.backbone_dropout, recipe.head_lr) == ("constant", 0.0, None, None)
    assert recipe.word_dropout == 0
    assert (settings.weight_decay, settings.max_grad_norm, settings.accumulate) == (0.0, None, 1)
    assert parse("--fine-tune-mode", "full-model").recipe(TASKS["sst"]).lr == 1e-5


def test_quick_is_the_bundled_model_on_the_bundled_samples():
    """Catches a quick run that needs a download."""
    settings = parse("--quick")
    assert Path(settings.backbone) == TINY and settings.is_tiny
    assert [task.name for task in settings.tasks()] == ["sst-sample", "cfimdb-sample"]
    assert all("sample" in str(task.train) for task in settings.tasks())
    assert [task.name for task in parse("--quick", "--data", "sst").tasks()] == ["sst"]
    assert parse("--quick", "--model", "gpt2").backbone == "gpt2"


@pytest.mark.parametrize("mode", ["last-linear-layer", "full-model"])
@pytest.mark.parametrize("model, tiny", [
    ("gpt2", False), ("someone/gpt2-tiny", False), ("gpt2-tiny", True), (str(TINY), True), (f"{TINY}/", True),
    (os.path.relpath(TINY), True), (f"{TINY}/../gpt2-tiny", True)])
def test_defaults_by_mode_and_backbone(mode, model, tiny):
    """Catches the course's tiny steps on the bundled model when it goes by its name or by another path."""
    settings = Settings(model=model, fine_tune_mode=mode)
    assert settings.is_tiny is tiny
    for name in ("sst", "cfimdb", "sst-sample", "cfimdb-sample"):
        assert settings.recipe(TASKS[name]) == (TINY_DEFAULTS[name, mode] if tiny else COURSE_DEFAULTS[mode])


def test_what_is_given_overrides_the_defaults():
    """Catches a flag that is parsed and then forgotten, or a 0 taken for nothing given."""
    settings = Settings(quick=True, lr=0.0, epochs=2, batch_size=4, schedule="cosine", warmup=0.25,
                        hidden_dropout_prob=0.0, backbone_dropout=0.0)
    recipe = settings.recipe(TASKS["sst"])
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.schedule) == (0.0, 2, 4, "cosine")
    assert (recipe.warmup, recipe.dropout, recipe.backbone_dropout) == (0.25, 0.0, 0.0)
    assert Settings(head_lr=0.5, fine_tune_mode="full-model").recipe(TASKS["sst"]).head_lr == 0.5
    blank = Settings(model="gpt2-tiny", fine_tune_mode="full-model", word_dropout=0.0)
    assert blank.recipe(TASKS["cfimdb"]).word_dropout == 0
    for model, answer, frozen in ("gpt2-tiny", "no", False), ("gpt2", "yes", True):
        words = Settings(model=model, fine_tune_mode="full-model", freeze_word_embedding=answer)
        assert words.recipe(TASKS["cfimdb"]).freeze_word_embedding is frozen
    random = Settings(model="gpt2-tiny", fine_tune_mode="full-model", random_backbone=True)
    assert random.recipe(TASKS["cfimdb"]) == replace(TINY_DEFAULTS["cfimdb", "full-model"], freeze_word_embedding=False)


def test_reading_can_be_changed():
    """Catches --max-length, --lowercase or --skip-rule that do not reach the task, and one that changes the others."""
    plain, = parse("--data", "cfimdb").tasks()
    assert plain == TASKS["cfimdb"]
    task, = parse("--data", "cfimdb", "--max-length", "60", "--lowercase", "no", "--skip-rule",
                  "break-tags").tasks()
    assert (task.max_length, task.lowercase) == (60, False)
    assert set(plain.rules.names) - set(task.rules.names) == {"break-tags"}


def test_your_own_data():
    """Catches own files whose labels, names or rules are the course's."""
    task, = parse("--train", "a.csv", "--dev", "b.csv", "--test", "c.csv", "--label-names", "no", "yes",
                  "--name", "mine").tasks()
    assert (task.name, task.num_labels, task.label_names) == ("mine", 2, ("no", "yes"))
    assert (task.train, task.dev, task.test) == (Path("a.csv"), Path("b.csv"), Path("c.csv"))
    assert task.lowercase is False
    task, = parse("--train", "a.csv", "--dev", "b.csv", "--num-labels", "4", "--lowercase", "yes").tasks()
    assert (task.name, task.num_labels, task.test, task.lowercase) == ("own", 4, None, True)


@pytest.mark.parametrize("given, said", [
    ({"train": Path("a")}, "--train describes your own data, which needs --train and --dev"),
    ({"dev": Path("a")}, "--dev describes your own data"),
    ({"test": Path("a")}, "--test describes your own data"),
    ({"num_labels": 3}, "--num-labels describes your own data"),
    ({"label_names": ("a", "b")}, "--label-names describes your own data"),
    ({"name": "mine"}, "--name describes your own data"),
    ({**OWN, "data": ("sst",)}, "not both"),
    ({**OWN, "quick": True}, "not both"),
    ({"dev_share": 0.1}, "--dev-share describes your own data"),
    ({"label_column": "x"}, "--label-column describes your own data"),
    ({"train": Path("a")}, "(or --dev-share 0.1)"),
    ({**OWN, "dev_share": 0.1}, "either --dev or --dev-share, not both"),
    ({"train": Path("a"), "dev_share": 1.0}, "--dev-share must be between 0 and 1, not 1.0"),
    ({"train": Path("a"), "dev_share": float("nan")}, "--dev-share must be between 0 and 1"),
    ({**OWN, "separator": "ab"}, "--separator must be a character or the word tab, not 'ab'"),
    ({**OWN, "separator": '"'}, "--separator must be a character"),
    ({"data": ("sst", "imdb")}, "no task 'imdb'; there are sst, cfimdb"),
    ({"skip_rule": ("tags",)}, "no rule 'tags'; there are"),
    ({"use_gpu": True, "device": "cpu"}, "--use_gpu means --device cuda"),
    ({"epochs": 0}, "--epochs must be at least 1, not 0"),
    ({"batch_size": 0}, "--batch-size must be at least 1"),
    ({"accumulate": 0}, "--accumulate must be at least 1"),
    ({"lr": -1e-3}, "--lr must be at least 0"),
    ({"lr": float("nan")}, "--lr must be at least 0, not nan"),
    ({"lr": float("inf")}, "--lr must be at least 0, not inf"),
    ({"warmup": 1.5}, "--warmup must be from 0 to 1, not 1.5"),
    ({"warmup": float("nan")}, "--warmup must be from 0 to 1"),
    ({"weight_decay": -0.1}, "--weight-decay must be at least 0"),
    ({"hidden_dropout_prob": 1.1}, "--hidden-dropout-prob must be from 0 to 1"),
    ({"backbone_dropout": -0.1}, "--backbone-dropout must be from 0 to 1"),
    ({"head_lr": -0.1, "fine_tune_mode": "full-model"}, "--head-lr must be at least 0"),
    ({"head_lr": 0.1}, "--head-lr is for --fine-tune-mode full-model"),
    ({"word_dropout": 1.1, "fine_tune_mode": "full-model"}, "--word-dropout must be from 0 to 1"),
    ({"word_dropout": 0.1}, "--word-dropout is for --fine-tune-mode full-model"),
    ({"freeze_word_embedding": "yes"}, "--freeze-word-embedding is for --fine-tune-mode full-model"),
    ({"max_length": 0}, "--max-length must be at least 1"),
    ({"max_grad_norm": -1.0}, "--max-grad-norm must be at least 0"),
    ({"save_minutes": -1.0}, "--save-minutes must be at least 0"),
    ({"save_steps": 0}, "--save-steps must be at least 1"),
    ({"seed": -1}, "--seed must be from 0"),
    ({"seed": 2**63}, "--seed must be from 0"),
])
def test_refusals(given, said):
    """Catches settings that make no sense and are passed over in silence, or refused without the flag's name."""
    with pytest.raises(UserError) as caught:
        Settings(**given)
    assert said in str(caught.value)


@pytest.mark.parametrize("given, said", [
    ({"num_labels": 1}, "at least 2 labels, not 1"),
    ({"num_labels": 2, "label_names": ("a", "b", "c")}, "3 label names for 2 labels"),
    ({"label_names": ("a", "a", "b")}, "must differ"),
    ({"name": "a/../b"}, "cannot name a task")])
def test_refusals_of_your_own_task(given, said):
    """Catches a task that reaches the reader, or the file system, with labels or a name that cannot be."""
    with pytest.raises(UserError, match=said):
        Settings(**{**OWN, **given}).tasks()


def test_your_own_data_needs_no_number_of_labels():
    """Catches: a flag that the files answer."""
    task, = parse("--train", "a.csv", "--dev-share", "0.2", "--seed", "5", "--separator", "tab", "--text-column", "T",
                  "--label-column", "L", "--id-column", "I").tasks()
    assert (task.num_labels, task.label_names, task.dev) == (None, (), None)
    assert task.own == Options("\t", "T", "L", "I", dev_share=0.2, seed=5)
    assert parse("--train", "a", "--dev", "b", "--seed", "5").tasks()[0].own == Options()  # the seed decides no file


def test_a_rate_or_the_word_find():
    """Catches: a rate read as a word, another word taken for a rate, find taken for a rate to train at."""
    assert parse("--lr", "1e-3").lr == 1e-3
    found = parse("--lr", "find")
    assert found.lr == "find" and found.recipe(TASKS["sst"]) == parse().recipe(TASKS["sst"])
    with pytest.raises(SystemExit):
        parse("--lr", "fined")


@pytest.mark.parametrize("given", [{"lr": 0.0}, {"warmup": 0.0}, {"warmup": 1.0}, {"hidden_dropout_prob": 0.0},
                                   {"seed": 0}, {"save_minutes": 0.0}, {"use_gpu": True, "device": "cuda"}])
def test_limits_themselves_are_fine(given):
    """Catches bounds that exclude their ends."""
    Settings(**given)


def test_settings_need_no_pytorch(root):
    """Catches an import that makes --help wait for PyTorch."""
    code = ("import sys, finetuning.settings\n"
            "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'sklearn')))")
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize("content, said", [
    ("text,label\na,\n", "error: x.csv: column 'label': every row is empty"),
    ("id,sentence,mood\na,b,c\n", "--label-column NAME says which one it is"),
    ("id,text,label\n1,a,0\n1,b,1\n", "--id-column none numbers the rows instead"),
    ("text,label\na,good\nb,bad\nc,so\n", "Without --num-labels the labels are taken as the files have them; "
                                             "--label-names A B gives their order")])
def test_wrong_data_is_refused_before_pytorch_is_imported(root, tmp_path, content, said):
    """Catches seconds of waiting before a fault is told, and a fault without the flag that mends it."""
    (tmp_path / "x.csv").write_text(content)
    code = ("import sys\nsys.argv = ['classifier.py', '--train', 'x.csv', '--dev', 'x.csv', '--num-labels', '2']\n"
            f"sys.argv += ['--model', {str(TINY)!r}]\n"
            "from finetuning.settings import read_settings\n"
            "try: read_settings('')\nfinally: print([name for name in ('torch', 'sklearn') if name in sys.modules])")
    if "every row" in said:  # a number of labels that was given asks nothing of the file
        code = code.replace(", '--num-labels', '2']", "]")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 2 and said in done.stderr and done.stdout == "[]\n"
    assert len(done.stderr.splitlines()) <= 2
