"""Run every cell of docs/tour.ipynb, and write the notebook with what they show.

    ./setup.sh -m tests.tour
"""

import hashlib
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"


def read() -> nbformat.NotebookNode:
    """Return the notebook as it is committed."""
    return nbformat.read(TOUR, as_version=4)


def execute(notebook: nbformat.NotebookNode, scratch: Path) -> None:
    """Run the cells in docs/, as Jupyter does, and put their outputs into the notebook.

    scratch: an empty folder for all that the kernel writes: its temporary files, its history, its settings.
    Raises nbclient's CellExecutionError, which shows the cell and its traceback.
    """
    places = {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP", "IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(TOUR.parent)}})
    client.execute(env={**os.environ, **places})
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}, "outputs_of": fingerprint(notebook)}


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Return the SHA-256 of all code cells: outputs with another one are of other cells."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def main() -> None:
    """Run the cells, then write the notebook."""
    notebook = read()
    with tempfile.TemporaryDirectory() as scratch:
        execute(notebook, Path(scratch))
    nbformat.write(notebook, TOUR)
    print(f"{TOUR.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran, "
          f"{TOUR.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
