"""What is taken in of a submission, and what is refused: hostile, clumsy and broken zips and folders."""

import hashlib
import io
import os
import struct
import subprocess
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.grader.entries import ENTRIES, Refused, open_folder
from staff.grader.intake import LIMITS, take
from submission import manifest

FILES = {name: f"# {name}\n".encode() for name in manifest.SOURCES}


def zipped(tmp_path, files, name="one.zip", **settings):
    """Write a zip of path -> content (or ZipInfo -> content) and return its path."""
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for entry, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(entry, content)
    return path


def laid_out(tmp_path, files, name="one"):
    """Write a folder of path -> content and return it."""
    for file, content in files.items():
        (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).write_bytes(content)
    return tmp_path / name


def linked(name, mode=0o120777):
    """Return the entry of a link (or another kind of file) in a zip."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, mode << 16
    return entry


def test_a_zip_and_its_folder_are_the_same_submission(tmp_path):
    """Catches: a hash that depends on the packing, so that Gradescope's unpacked upload has another seed."""
    predictions = {path: b"x" for path in LIMITS if path.startswith("predictions/")}
    files = FILES | predictions | {"config.py": b"", "NOTES.md": b"a", "MANIFEST.json": b"{}"}
    one, other = take(zipped(tmp_path, files)), take(laid_out(tmp_path, files))
    assert one.files == other.files == FILES | predictions | {"config.py": b""}
    assert one.sha256 == other.sha256 and one.notes == other.notes
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(one.files.items()))
    assert one.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert take(zipped(tmp_path, files | {"optimizer.py": b"#"})).sha256 != one.sha256


@pytest.mark.parametrize("more, note", [
    ({}, None),
    ({"__MACOSX/._optimizer.py": b"", ".DS_Store": b"", "modules/__pycache__/x.pyc": b""},
     "left out, as it should be: '.DS_Store', '__MACOSX', '__pycache__'"),
    ({"config.py": b"", "utils.py": b"", "models/base_gpt.py": b""}, "config.py is the submission's own"),
    ({"base_gpt.py": b"x = 1\n"}, "'base_gpt.py' is taken for models/base_gpt.py"),
    ({"evil\x1b[2J.txt": b"", "sub.zip": b""}, r"2 other files are not graded: 'evil\x1b[2J.txt', 'sub.zip'"),
])
@pytest.mark.parametrize("folder", ["", "my work/"])
def test_what_is_clumsy_is_accepted_with_a_note(tmp_path, more, note, folder):
    """Catches: an honest student refused for a folder, a Mac, or the course's layout; terminal codes in a note."""
    files = {folder + name: content for name, content in (FILES | more).items()}
    taken = [take(laid_out(tmp_path, files))]
    if not any(not name.isprintable() for name in files):
        taken.append(take(zipped(tmp_path, files)))
    for found in taken:
        assert found.files.items() >= FILES.items() and found.broken == {}
        assert bool(folder) == any("'my work/'" in text for text in found.notes)
        assert note is None or any(note in text for text in found.notes)
        assert all(text.isprintable() for text in found.notes)
        assert "base_gpt.py" not in more or found.files["models/base_gpt.py"] == b"x = 1\n"


@pytest.mark.parametrize("files, said", [
    ({"../optimizer.py": b""}, "leaves its folder"),
    ({"a/../../optimizer.py": b""}, "leaves its folder"),
    ({"./optimizer.py": b""}, "leaves its folder"),
    ({"a//b": b""}, "leaves its folder"),
    ({"/etc/passwd": b""}, "absolute"),
    ({"C:/x": b""}, "absolute"),
    ({"modules\\attention.py": b""}, "backslash"),
    ({"..\\x": b""}, "backslash"),
    ({"a\nb": b""}, "control characters"),
    ({"a" * 301: b""}, "too long"),
    ([("optimizer.py", b"a"), ("optimizer.py", b"b")], "twice"),
    ({"Optimizer.py": b""}, "case"),
    ({"caf\u00e9": b"", "cafe\u0301": b""}, "case"),
    ({"modules": b""}, "both a file and a folder"),
    ({linked("modules/attention.py.x"): b"", linked("models/base_gpt.py"): b"/etc/passwd"}, "link"),
    ([(linked("predictions"), b"/")], "link"),
    ([(linked("utils.py", 0o010644), b"")], "link or a device"),
])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_zip_is_refused_in_one_line(tmp_path, files, said):
    """Catches: a name, a link or a second entry that another program would read as something else (T11, T12)."""
    pairs = [*FILES.items(), *(files.items() if isinstance(files, dict) else files)]
    with pytest.raises(Refused, match=said) as refused:
        take(zipped(tmp_path, pairs))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250
    assert not any(path.name in ("passwd", "x") for path in tmp_path.iterdir())


def test_links_and_devices_in_a_folder(tmp_path):
    """Catches: a link, a hard link or a pipe read in the place of a source; a link elsewhere that refuses the rest."""
    (tmp_path / "secret").write_text("x = 1\n")
    for name, put in (("link", lambda path: path.symlink_to(tmp_path / "secret")),
                      ("hard link", lambda path: path.hardlink_to(tmp_path / "secret")), ("pipe", os.mkfifo)):
        folder = laid_out(tmp_path, FILES, name)
        (folder / "optimizer.py").unlink()
        put(folder / "optimizer.py")
        with pytest.raises(Refused, match=r"'optimizer\.py' is a link or a device"):
            take(folder)
    folder = laid_out(tmp_path, FILES, "folder link")
    (folder / "modules").rename(tmp_path / "elsewhere")
    (folder / "modules").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="'modules' is a link"):
        take(folder)
    folder = laid_out(tmp_path, FILES, "harmless")
    (folder / "data").symlink_to("/")
    assert take(folder).files == FILES


def test_a_very_deep_folder(tmp_path):
    """Catches: a RecursionError, and so a grader error, for 1,500 folders in each other."""
    folder = laid_out(tmp_path, FILES)
    deep = str(folder)
    for _ in range(1500):
        deep += "/d"
        os.mkdir(deep)
    try:
        assert take(folder).files == FILES
    finally:
        subprocess.run(["rm", "-rf", folder / "d"], check=True)  # Python's own way would fail


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path):
    """Catches: a link put in the place of a folder after it was looked at."""
    folder = laid_out(tmp_path, FILES)
    with open_folder(folder) as source:
        (folder / "modules").rename(tmp_path / "elsewhere")
        (folder / "modules").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError):
            source.read("modules/attention.py", 1000)


def test_what_is_no_zip(tmp_path):
    """Catches: a traceback for a file that is not a zip, an empty one, one cut short, one zipped twice, a ZIP64."""
    whole = zipped(tmp_path, FILES).read_bytes()
    for number, (content, said) in enumerate([
        (b"", "not a zip"), (b"PK", "not a zip"), (os.urandom(5000), "not a zip"), (whole[:-30], "not a zip"),
        (whole[len(whole) // 2:], "not a zip|cannot be"),
        (whole[:-22] + b"PK\6\7" + bytes(16) + whole[-22:], "entries"),
    ]):
        (tmp_path / f"{number}.zip").write_bytes(content)
        with pytest.raises(Refused, match=said):
            take(tmp_path / f"{number}.zip")
    with pytest.raises(Refused, match=r"none of optimizer.py.*'one.zip' is a zip inside it"):
        take(zipped(tmp_path, {"one.zip": whole}, "two.zip"))
    with pytest.raises(Refused, match=r"none of optimizer\.py"):
        take(zipped(tmp_path, {}, "empty.zip"))
    with pytest.raises(Refused, match="two folders"):
        take(zipped(tmp_path, {"a/optimizer.py": b"", "b/optimizer.py": b""}, "both.zip"))


def test_an_encrypted_zip_is_refused(tmp_path):
    """Catches: a question for a password, or a RuntimeError."""
    content = bytearray(zipped(tmp_path, FILES).read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    (tmp_path / "secret.zip").write_bytes(content)
    with pytest.raises(Refused, match="encrypted"):
        take(tmp_path / "secret.zip")


def test_bombs_are_refused_before_they_cost_anything(tmp_path):
    """Catches: bytes counted by an entry's claim (T13); an entry that claims less than it holds; many entries."""
    deflate = {"compression": zipfile.ZIP_DEFLATED}
    large = zipped(tmp_path, FILES | {"optimizer.py": b"#" * 30_000_000}, "large.zip", **deflate)
    tracemalloc.start()
    assert take(large).broken == {"optimizer.py": "optimizer.py: more than 500,000 bytes"}
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    with pytest.raises(Refused, match="bomb"):
        take(zipped(tmp_path, FILES | {"optimizer.py": b"#" * 400_000}, **deflate))

    content = large.read_bytes().replace(struct.pack("<L", 30_000_000), struct.pack("<L", 10))
    (tmp_path / "liar.zip").write_bytes(content)
    with pytest.raises(Refused, match="cannot be inflated"):
        take(tmp_path / "liar.zip")

    content = zipped(tmp_path, FILES | {"x": b"y" * 1234}).read_bytes()
    content = content.replace(struct.pack("<L", 1234), struct.pack("<L", 4_000_000_000))
    (tmp_path / "claims.zip").write_bytes(content)
    with pytest.raises(Refused, match="inflates to 4,000"):
        take(tmp_path / "claims.zip")

    many = FILES | {f"data/{number}": b"" for number in range(10_000)}
    with pytest.raises(Refused, match=f"more than {ENTRIES:,} entries"):
        take(zipped(tmp_path, many))
    with pytest.raises(Refused, match=f"more than {ENTRIES:,} files"):
        take(laid_out(tmp_path, many))


@pytest.mark.parametrize("content, said", [
    ("x = 1\n".encode("utf-16"), "modules/attention.py:1: it is UTF-16; save it as UTF-8"),
    (b"x = 1\ny = '\0'\n", "modules/attention.py:2: a NUL byte"),
    (b"x = 1\ndef f(:\n    pass\n", "modules/attention.py:2: not valid Python: invalid syntax"),
    (b"def f():\n\tx = 1\n        y = 2\n", "modules/attention.py:3: not valid Python: inconsistent use of tabs"),
    (b"x = '\xff'\n", "modules/attention.py:1: not valid Python: (unicode error)"),
    (b"(" * 300, "modules/attention.py:1: not valid Python: too many nested parentheses"),
    (b"-" * 200_000 + b"1", "modules/attention.py:1: "),
])
def test_a_file_that_python_cannot_read_fails_alone(tmp_path, content, said):
    """Catches: a traceback, a crash of the parser in our own process, a line that does not say where."""
    found = take(zipped(tmp_path, FILES | {"modules/attention.py": content}))
    assert found.broken["modules/attention.py"].startswith(said) and len(found.broken) == 1
    assert found.broken["modules/attention.py"] in found.notes
    assert found.usable == {name: content for name, content in FILES.items() if name != "modules/attention.py"}


def test_a_broken_support_file_gives_way_to_ours(tmp_path):
    """Catches: a config.py that does not parse and takes all five components with it."""
    found = take(zipped(tmp_path, FILES | {"config.py": b"def\n"}))
    assert found.usable == FILES and any("config.py:1" in note and "own is used" in note for note in found.notes)


def test_other_encodings_that_python_reads_are_fine(tmp_path):
    """Catches: a stricter reader than Python's: a byte order mark, Latin-1 with a cookie, Windows line ends."""
    odd = {"optimizer.py": b"\xef\xbb\xbfx = 1\r\n", "classifier.py": b"# coding: latin-1\nx = '\xe9'\n"}
    assert take(zipped(tmp_path, FILES | odd)).broken == {}


def test_a_missing_file_is_named_with_one_like_it(tmp_path):
    """Catches: five zeros without a word for who packed the files side by side."""
    files = {name: content for name, content in FILES.items() if "attention" not in name} | {"Attention.py": b""}
    assert "modules/attention.py is missing; 'Attention.py' would be graded if it were there" in \
        take(zipped(tmp_path, files)).notes


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_or_read(tmp_path_factory, data):
    """Catches: any other exception than Refused, for bytes that an attacker changes in a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content * 20)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.zip"
    path.write_bytes(content)
    try:
        assert set(take(path, parse=False).files) <= set(LIMITS)
    except Refused as refused:
        assert "\n" not in str(refused)
