"""Stands in for the project's file of this name: classifier.py imports it, and is never run when it is graded."""


def read_settings(description: str) -> None:
    """Fail: a graded classifier.py is imported, not run."""
    raise RuntimeError("classifier.py is imported, not run, while a submission is graded")
