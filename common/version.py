"""Which version of the code this is. Imports nothing large."""

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def describe() -> str:
    """Return two lines: name, version and commit of the code; versions of Python and PyTorch."""
    text = ""
    with contextlib.suppress(OSError):
        text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    name, version = (re.search(rf'^{key} = "(.+)"$', text, re.MULTILINE) for key in ("name", "version"))
    commit = git_commit()
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "is not installed"
    return (f"{name[1] if name else REPOSITORY.name} {version[1] if version else '(no pyproject.toml)'}"
            f"{f', commit {commit}' if commit else ''}\nPython {platform.python_version()}, PyTorch {torch}")


def git_commit() -> str | None:
    """Return the commit of the code, with "+" if files differ from it; None outside of git."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=10,
                              check=True).stdout.strip()

    if not (REPOSITORY / ".git").exists():
        return None
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
