"""Stands in for optimizer.py where another file is graded: a classifier.py may import AdamW, and does not need it."""


class AdamW:
    """Cannot be made: only optimizer.py's own tests use an optimizer of the submission."""

    def __init__(self, *arguments: object, **options: object) -> None:
        raise RuntimeError("AdamW is not there while another file is graded")
