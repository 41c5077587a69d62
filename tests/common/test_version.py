"""--version, which every script has."""

import re
import subprocess
import sys

import pytest

from common import version
from common.cli import Parser


@pytest.mark.parametrize("script", ["classifier.py", "pretrain.py", "predict.py", "export.py", "prepare_submit.py"])
def test_every_script_says_which_version_it_is(root, script):
    """Catches a script that wants other flags first, or that imports PyTorch to tell its version."""
    code = (f"import runpy, sys; sys.argv = [{script!r}, '--version']\n"
            f"try: runpy.run_path({script!r}, run_name='__main__')\n"
            "finally: print([name for name in ('torch', 'numpy', 'tqdm') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, imported = done.stdout.splitlines()
    assert re.fullmatch(r"gpt2-by-hand \d+\.\d+\.\d+(, commit [0-9a-f]{40}\+?)?", first)
    assert re.fullmatch(r"Python 3\.\d+\.\d+\S*, PyTorch \d+\.\d+\.\d+\S*", second) and imported == "[]"


def test_a_copy_without_git_and_packages(tmp_path, monkeypatch, capsys):
    """Catches a traceback in a copy of a few files, or where PyTorch is not installed yet."""
    def missing(name):
        raise version.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "REPOSITORY", tmp_path / "copy")
    monkeypatch.setattr(version.importlib.metadata, "version", missing)
    with pytest.raises(SystemExit) as end:
        Parser().parse_args(["-V"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith("copy (no pyproject.toml)\nPython 3.") \
        and said.endswith("PyTorch is not installed\n")
