"""Ctrl-C ends a script with one word from its first moment on: Python would show a traceback until `main` begins.

Whoever imports much imports this first, so it imports next to nothing.
"""

import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SCRIPTS = ("classifier.py", "pretrain.py", "finetuning/__main__.py")
"""A program of someone else's that imports our rooms keeps its own Ctrl-C."""


def end(_number: int, _frame: object) -> None:
    """Handle SIGINT: end the process at once. Nothing has been written, so nothing needs to be cleared up."""
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one of several processes speaks
            os.write(2, b"interrupted\n")
    finally:
        os._exit(128 + signal.SIGINT)


def swap(now: object, new: object) -> None:
    """Change the handler of SIGINT from `now` to `new`; leave any other handler, and SIGINT ignored, as they are."""
    if signal.getsignal(signal.SIGINT) is now:
        signal.signal(signal.SIGINT, new)


main = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
if main in {os.path.normpath(f"{ROOT}/{name}") for name in SCRIPTS}:
    swap(signal.default_int_handler, end)
if hasattr(signal, "pthread_sigmask"):  # not on Windows
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # setup.sh held it back until now
