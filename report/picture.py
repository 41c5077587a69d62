"""Take the README's picture: the upper part of a run's page, in two columns, as Chromium shows it.

    ./setup.sh -m report.picture runs/sst-sample-last-linear-layer/report.html
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import cli
from common.errors import UserError, quoted
from common.files import replacing, require_writable

BROWSERS = "chromium", "chromium-browser", "google-chrome"
WIDTH, HEIGHT = 820, 1330  # pixels of each of two columns
SPLIT = 1245  # where the second begins: with the first run of the README, the verdict is left and learning right
COLOURS = 200  # enough for letters, lines and shades, and half the bytes
TIMEOUT = 60  # seconds
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "report.png"


def main() -> None:
    """Write the picture of a page."""
    parser = cli.Parser(prog="report.picture", description=__doc__)
    parser.add_argument("page", metavar="PAGE", type=Path, help="a page that -m report has made")
    parser.add_argument("--out", metavar="FILE", type=Path, default=PICTURE, help="default: docs/report.png")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        raise UserError(f"no page {quoted(arguments.page, 200)}; ./setup.sh -m report RUN makes one")
    require_writable(arguments.out)
    take(arguments.page, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


def take(page: Path, out: Path) -> None:
    """Write the upper part of a page in two columns as PNG. UserError without Chromium, or if it fails."""
    from PIL import Image  # comes with matplotlib

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("a picture needs Chromium (Debian: sudo apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [browser, "--headless=new", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile",
                   f"--window-size={WIDTH},{2 * HEIGHT}", f"--screenshot={shot}", page.resolve().as_uri()]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium's own sandbox refuses root
            command.insert(1, "--no-sandbox")
        try:
            subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
            with Image.open(shot) as picture, replacing(out) as temporary:
                both = Image.new("RGB", (2 * WIDTH, HEIGHT), picture.convert("RGB").getpixel((0, 0)))
                both.paste(picture.crop((0, 0, WIDTH, SPLIT)))
                both.paste(picture.crop((0, SPLIT, WIDTH, SPLIT + HEIGHT)), (WIDTH, 0))
                few = both.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # keeps the colours of thin lines
                few.save(temporary, format="PNG", optimize=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"{browser} took no picture: {error}") from error


if __name__ == "__main__":
    cli.run(main)
