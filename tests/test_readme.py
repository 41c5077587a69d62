"""What README.md promises: its commands run, its numbers are the measured ones, its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import read_results, table
from common import cli
from tests.finetuning.test_run import folder  # noqa: F401 (a fixture)
from tests.serving.conftest import write_model

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
            for line in block.splitlines() if line.strip()]


def settings_of(script: str, words: list[str]) -> object:
    """The settings that a script reads from these words."""
    from finetuning.settings import Settings as FineTuning
    from pretraining.settings import Settings as Pretraining
    from serving.export_settings import Settings as Export
    from serving.settings import Settings as Serving

    kind = {"classifier.py": FineTuning, "pretrain.py": Pretraining, "predict.py": Serving,
            "export.py": Export}[script]
    parser = cli.Parser()
    if kind is Serving:
        parser.add_argument("texts", nargs="*")
    cli.add_arguments(parser, kind)
    return cli.from_arguments(kind, parser.parse_args(words))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str, root: Path) -> None:
    """Catches a README that names a script, module or flag which is not there (any more)."""
    setup, *words = shlex.split(command)
    assert setup == "./setup.sh" and (root / "setup.sh").stat().st_mode & 0o111
    if words[0] == "-m":
        module = root / words[1].replace(".", "/")
        assert words[1] == "pytest" or module.with_suffix(".py").exists() or (module / "__main__.py").exists()
    else:
        assert (root / words[0]).is_file()
    if words[0] in ("classifier.py", "pretrain.py", "predict.py", "export.py"):
        settings_of(words[0], words[1:])


def test_links_lead_to_files(root: Path) -> None:
    """Catches a page that was renamed or never written."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_the_tree_names_what_is_there(root: Path) -> None:
    """Catches a file or folder in the README's tree that is gone."""
    tree = re.findall(r"^([a-z_]+(?:\.py|/)) ", README, re.MULTILINE)
    assert len(tree) > 10
    assert [name for name in tree if not (root / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "models/gpt2-tiny/README.md"])
def test_accuracies_are_the_measured_ones(page: str, root: Path) -> None:
    """Catches a table that was edited by hand, or that belongs to other weights than the bundled ones."""
    runs = read_results(root / "benchmarks" / "results" / "accuracy.jsonl", root / "models" / "gpt2-tiny")
    assert any(run["backbone"] == "pretrained" for run in runs), "accuracy.jsonl says nothing of the bundled weights"
    assert table(runs) in (root / page).read_text(encoding="utf-8")


def test_the_lines_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
                             folder: Path) -> None:  # noqa: F811 (a fixture)
    """Catches an example that does not run as it stands, or that is more than the five lines it promises."""
    code, = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    write_model(folder / "model", tmp_path / "runs" / "own-full-model" / "model")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(re.fullmatch(r"(terrible|so so|wonderful) \([\d., e-]+\)", line) for line in lines)


def test_quick_run(root: Path, tmp_path: Path) -> None:
    """The first command as written: predictions, a closing table, and a result that is worth something.

    Catches a bundled model that does no better than guessing, or than counting words.
    """
    assert COMMANDS[0] == "./setup.sh classifier.py --quick"
    done = subprocess.run([sys.executable, str(root / "classifier.py"), "--quick"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")}
    assert sorted(result["task"] for result in results.values()) == ["cfimdb-sample", "sst-sample"]
    assert len(list((tmp_path / "predictions").glob("*-out.csv"))) == 4
    assert all((run / "model" / "serving.json").exists() for run in (tmp_path / "runs").glob("*-sample-*"))
    for result in results.values():
        assert result["run"]["accuracy"] > result["majority"]["accuracy"] + 0.1
        assert result["task"] in done.stdout and "TF-IDF" in done.stdout
    mean = {name: sum(result[name]["accuracy"] for result in results.values()) / 2 for name in ("run", "tfidf")}
    assert mean["run"] > mean["tfidf"]
