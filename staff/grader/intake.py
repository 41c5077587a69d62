"""Take a submission in: a zip or a folder becomes a dict of the files that are graded. Nothing in it is run.

What is hostile is refused, not repaired. What is only clumsy (one folder around everything, `__MACOSX`, files that
are not graded) is accepted, with a note. A graded file that Python cannot read fails alone; the others go on.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import printable, quoted
from staff.grader.entries import JUNK, PACK, Refused, Source, TooLarge, open_folder, open_zip
from staff.grader.receipts import digest_of
from submission import manifest

SUPPORT = (*manifest.SUPPORT, "models/base_gpt.py")
"Modules of the course's starter: a submission's own take the place of ours."

LIMITS: dict[str, int] = {
    **dict.fromkeys((*manifest.SOURCES, *SUPPORT), manifest.SOURCE_LIMIT),
    **{part.predictions(split): manifest.PREDICTIONS_LIMIT
       for part in manifest.PARTS.values() for split in manifest.SPLITS},
}
"The files that are graded -> the largest size of each, in bytes."

ALIASES = {"base_gpt.py": "models/base_gpt.py"}
SILENT = {*manifest.OPTIONAL, "MANIFEST.json"}  # not graded, and nothing to remark on


@dataclass(frozen=True)
class Submission:
    """What is graded of a submission."""

    files: dict[str, bytes]  # path -> content
    notes: list[str] = field(default_factory=list)  # for the student and for staff
    broken: dict[str, str] = field(default_factory=dict)  # path -> "file:line: why it cannot be used"

    @property
    def usable(self) -> dict[str, bytes]:
        """The files that are not broken."""
        return {name: content for name, content in self.files.items() if name not in self.broken}

    @property
    def sha256(self) -> str:
        """The SHA-256 of what `sha256sum` prints for the files in order: the same zipped or unpacked."""
        return digest_of(self.files)


def take(path: Path, parse: bool = True) -> Submission:
    """Return what is graded of a zip or a folder; raise Refused. parse: find the files that Python cannot read, too."""
    try:
        with open_folder(path) if path.is_dir() else open_zip(path) as source:
            return _choose(source, parse)
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror or error}") from error


def _choose(source: Source, parse: bool) -> Submission:
    """Return the graded files of a source, with notes on all that is remarkable about it."""
    names = {name for name in source.files if not JUNK.search(name)}
    notes = []

    # One folder around everything is what most archivers make.
    folder = ""
    if not names & {*LIMITS}:
        found = {name.partition("/")[0] for name in names if name.partition("/")[2] in LIMITS}
        if len(found) == 1:
            folder = found.pop() + "/"
            notes.append(f"all is taken from the folder {quoted(folder)}")
        elif found:
            raise Refused(f"two folders hold a submission, {' and '.join(map(quoted, sorted(found)[:2]))}: hand in one")
    inside = {name[len(folder):] for name in names if name.startswith(folder)}
    graded = {ALIASES.get(name, name): name for name in sorted(inside - {*SILENT}, key=lambda name: name not in ALIASES)
              if ALIASES.get(name, name) in LIMITS}
    if not graded:
        inner = next((f": {quoted(name)} is a zip inside it" for name in sorted(names) if name.endswith(".zip")), "")
        raise Refused(f"none of {', '.join(manifest.SOURCES)} is in it{inner}; {PACK}")
    for link in source.others:
        if any(f"{folder}{name}/".startswith(f"{link}/") for name in LIMITS):
            raise Refused(f"{quoted(link)} is a link or a device: hand in the file itself")

    notes += [f"{quoted(name)} is taken for {path}" for path, name in graded.items() if path != name]
    if junk := {found[2] or found[4] for name in source.files if (found := JUNK.search(name))}:
        notes.append(f"left out, as it should be: {', '.join(map(quoted, sorted(junk)[:5]))}")
    if rest := sorted(inside - {*graded.values()} - SILENT):
        notes.append(f"{len(rest)} other files are not graded: {', '.join(map(quoted, rest[:5]))}"
                     + (" ..." if len(rest) > 5 else ""))
    notes += [f"{name} is the submission's own, and takes the place of the course's" for name in SUPPORT
              if name in graded]
    for name in sorted(manifest.SOURCES.keys() - graded.keys()):
        like = next((other for other in rest if other.rpartition("/")[2].lower() == name.rpartition("/")[2]), None)
        notes.append(f"{name} is missing" + (f"; {quoted(like)} would be graded if it were there" if like else ""))

    # A file that is too large, or that Python cannot read, fails alone.
    files, broken = {}, {}
    for path, name in sorted(graded.items()):
        try:
            files[path] = source.read(folder + name, LIMITS[path])
        except TooLarge:
            files[path], broken[path] = b"", f"{path}: more than {LIMITS[path]:,} bytes"
    if parse:
        broken |= problems_of({path: content for path, content in files.items() if path.endswith(".py")})
    notes += [problem + ("; the course's own is used" if path in SUPPORT else "") for path, problem in broken.items()]
    return Submission(files, notes, broken)


PARSE = """
import ast, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
for text in json.load(sys.stdin):
    try:
        ast.parse(text.encode("latin-1"))
        found = None
    except SyntaxError as error:
        found = [error.lineno, str(error.msg)]
    except BaseException as error:
        found = [None, type(error).__name__]
    print(json.dumps(found), flush=True)
"""


def problems_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return path -> "file:line: what keeps Python from reading it", for the files that it cannot read.

    Another process parses them: some texts of a few bytes make Python's parser take minutes, or gigabytes, or crash.
    """
    problems, waiting = {}, []
    for path, content in files.items():
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            problems[path] = f"{path}:1: it is UTF-16; save it as UTF-8"
        elif (nul := content.find(b"\0")) >= 0:
            problems[path] = f"{path}:{content[:nul].count(10) + 1}: a NUL byte"
        else:
            waiting.append(path)
    while waiting:
        texts = json.dumps([files[path].decode("latin-1") for path in waiting]).encode()
        try:
            said = subprocess.run([sys.executable, "-I", "-S", "-c", PARSE], input=texts, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, env={}, timeout=20).stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        answers = [json.loads(line) for line in said.splitlines()]
        for path, found in zip(waiting, answers, strict=False):
            if found:
                problems[path] = f"{path}:{found[0] or 1}: not valid Python: {printable(found[1], 100)}"
        if len(answers) < len(waiting):
            path = waiting[len(answers)]
            problems[path] = f"{path}:1: Python cannot parse it in 5 seconds and 1 GB"
        waiting = waiting[len(answers) + 1:]
    return problems
