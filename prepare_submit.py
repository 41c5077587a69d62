"""Check a course submission, then zip it.

The script checks the source files, that no code is missing in them, and the prediction files. If all is well, it writes
a zip with exactly the files that submission/manifest.py names. Otherwise it lists every problem and writes no zip; an
earlier zip stays. Advice does not block the zip.
Exit status: 0 zip written, 1 problems found, 2 wrong command.

    ./setup.sh prepare_submit.py                               everything the course asks for
    ./setup.sh prepare_submit.py --parts full-model-sst        the code and one part's predictions
    ./setup.sh prepare_submit.py --parts                       the code alone
"""

import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import stat
import sys
import textwrap
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from common import cli
from common.errors import UserError, one_line
from common.files import write_atomic
from common.terminal import say
from submission import manifest
from submission.manifest import Finding, Part
from submission.predictions import advise, check_predictions, read_data
from submission.sources import check_source

ROOT = Path(__file__).resolve().parent


@dataclass
class Submission:
    """All that was found. `files` go into the zip if there are no `problems`."""

    parts: list[Part]
    files: dict[str, bytes] = field(default_factory=dict)
    "Path in the repository -> content. A file is read once, so the bytes checked are the bytes packed."
    written: dict[str, float] = field(default_factory=dict)
    "Path -> time when the file was last written, in seconds."
    problems: list[Finding] = field(default_factory=list)
    advice: list[Finding] = field(default_factory=list)

    def read(self, root: Path, file: str, limit: int, fix: str | None = None) -> bytes | None:
        """Read a file into `files` and return its content; None, and a problem, if it cannot be read safely."""
        path = root
        try:
            for name in PurePosixPath(file).parts:
                path = path / name
                if path.is_symlink():
                    raise OSError(f"{path.relative_to(root).as_posix()} is a link: put the file itself there")
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > limit:
                raise OSError(f"{status.st_size:,} bytes, more than the {limit:,} allowed")
            content = path.read_bytes()
        except FileNotFoundError:
            self.problems.append(Finding(file, "missing", fix=fix))
            return None
        except OSError as error:
            self.problems.append(Finding(file, str(error.strerror or error)))
            return None
        self.files[file], self.written[file] = content, status.st_mtime
        return content


def inspect(root: Path, parts: list[Part]) -> Submission:
    """Read and check everything in a submission of these parts; advise on what is correct but odd."""
    submission = Submission(parts)
    for file, classes in manifest.SOURCES.items():
        content = submission.read(root, file, manifest.SOURCE_LIMIT)
        if content is not None:
            submission.problems += check_source(file, content, classes)

    answers = {}  # what the correct prediction files say
    for part, split in itertools.product(parts, manifest.SPLITS):
        file = part.predictions(split)
        command = f"./setup.sh classifier.py --data {part.task_name} --fine-tune-mode {part.mode}"
        content = submission.read(root, file, manifest.PREDICTIONS_LIMIT, fix=command)
        if content is None:
            continue
        rows = read_data(root, part, split)
        if isinstance(rows, Finding):
            submission.problems += [rows] if rows not in submission.problems else []  # both modes need it
            rows = None
        found = check_predictions(file, content, rows, part.task.num_labels)
        submission.problems += found.problems
        if rows and not found.problems:
            answers[part.name, split] = found.labels, rows
    submission.advice += advise(answers)
    written = submission.written
    newest = max((file for file in written if file in manifest.SOURCES), key=written.__getitem__, default=None)
    submission.advice += [Finding(file, f"older than {newest}: is it what this code predicts?") for file in written
                          if newest and file not in manifest.SOURCES and written[file] < written[newest]]

    for file in manifest.OPTIONAL:
        if os.path.lexists(root / file):
            submission.read(root, file, manifest.OPTIONAL_LIMIT)
    for file in manifest.SUPPORT:
        if os.path.lexists(root / file) and (content := submission.read(root, file, manifest.SOURCE_LIMIT)) is not None:
            submission.problems += check_source(file, content, {})
    return submission


def left_out(root: Path, packed: Iterable[str]) -> list[str]:
    """Return the other files in the folders of the submitted files."""
    folders = {PurePosixPath(file).parent for file in (*manifest.SOURCES, "predictions/*")}
    names = {path.relative_to(root).as_posix() for folder in folders for path in (root / folder).glob("*")
             if not path.is_dir()} - set(packed)
    return sorted(one_line(name).encode("ascii", "backslashreplace").decode() for name in names)  # printable anywhere


def pack(submission: Submission) -> bytes:
    """Return the zip: equal files give equal bytes. It holds their SHA-256, and nothing about their author.

    MANIFEST.json in it names the versions that made the zip, and the size and SHA-256 of each file.
    """
    about = {
        "tool": "prepare_submit", "version": 1, "python": platform.python_version(),
        "torch": next((found.version for found in importlib.metadata.distributions(name="torch")), None),
        "parts": [part.name for part in submission.parts],
        "files": {file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                  for file, content in sorted(submission.files.items())},
    }
    contents = {**submission.files, "MANIFEST.json": json.dumps(about, indent=1).encode() + b"\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(file, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on Unix, everywhere
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def output_path(root: Path, out: str | None, student: str | None) -> Path:
    """Return the zip's path: `out`, or else submission.zip or submission-ID.zip in the repository."""
    if student is not None and not re.fullmatch("[A-Za-z0-9_-]{1,64}", student):
        raise UserError("--id takes 1 to 64 letters, digits, '-' and '_'")
    path = Path(out) if out else root / (f"submission-{student}.zip" if student else "submission.zip")
    if path.suffix != ".zip" or path.is_dir():
        raise UserError(f"--out {path}: give a file name that ends in .zip")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    return path


def tell(submission: Submission, skipped: list[str], path: Path, digest: str | None) -> None:
    """Print the report for people."""
    claimed = ", ".join(part.name for part in submission.parts)
    say(f"{len(submission.files)} files read. Claimed: the code, and {claimed or 'no predictions'}.")
    fixes = dict.fromkeys(finding.fix for finding in submission.problems if finding.fix)
    for title, lines in (
        (f"Problems ({len(submission.problems)}):", submission.problems),
        ("Commands that help:", fixes),
        ("Advice (it blocks nothing):", submission.advice),
    ):
        if lines:
            say("\n".join(["", title, *(f"  {line}" for line in lines)]))
    if skipped:
        say(f"\nOther files here stay out, as they should ({len(skipped)}):")
        say(textwrap.fill(", ".join(skipped), 79, initial_indent="  ", subsequent_indent="  "))
    if any("-sample-" in file for file in skipped):
        say("\nPredictions for the bundled samples (classifier.py --quick) are practice.\n"
              "A course submission needs those for the course's own data: ./setup.sh -m data.download")
    if digest:
        say(f"\nWrote {path}\nsha256 {digest}")
        say("Your code was read, not run. To run it against known answers: ./setup.sh sanity_check.py")
    else:
        kept = f" The {path} that is there is from an earlier run." if path.exists() else ""
        say(f"\nNo zip was written.{kept}")
        if all(finding.unfinished for finding in submission.problems):
            say("To hand in what is done all the same: the same command with --unfinished")


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = cli.Parser(description=__doc__)
    parts = list(manifest.PARTS)
    parser.add_argument("--parts", nargs="*", metavar="PART", choices=parts, default=parts,
                        help=f"the parts you claim, of {', '.join(parts)} (default: all)")
    parser.add_argument("--unfinished", action="store_true", help="pack code with holes, too: they cost their points")
    parser.add_argument("--id", metavar="ID", help="name the zip submission-ID.zip")
    parser.add_argument("--out", metavar="FILE", help="the zip (default: submission.zip, beside this script)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)

    path = output_path(root, args.out, args.id)
    submission = inspect(root, [part for name, part in manifest.PARTS.items() if name in args.parts])
    if args.unfinished:
        submission.advice[:0] = [finding for finding in submission.problems if finding.unfinished]
        submission.problems = [finding for finding in submission.problems if not finding.unfinished]
    skipped, digest = left_out(root, submission.files), None
    if not submission.problems:
        content = pack(submission)
        write_atomic(path, content)
        digest = hashlib.sha256(content).hexdigest()

    if args.json:
        json.dump({
            "ok": digest is not None, "zip": str(path) if digest else None, "sha256": digest,
            "problems": [asdict(finding) for finding in submission.problems],
            "advice": [asdict(finding) for finding in submission.advice],
            "files": sorted(submission.files), "left_out": skipped,
        }, sys.stdout, indent=1)
        print()
    else:
        tell(submission, skipped, path, digest)
    return 0 if digest else 1


if __name__ == "__main__":
    cli.run(main)
