"""For files written on the course's starter, which say `from config import GPT2Config`."""

from models.config import GPT2Config

__all__ = ["GPT2Config"]
