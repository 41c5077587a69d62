"""UserError, for every error that a user can cause, and Stopped, for a stop that the user asked for."""


class UserError(Exception):
    """An error that the user can cause and mend.

    The message has one or two lines: what is wrong, where (file, line, flag), and what to do about it.
    `common.cli.run` prints it without a traceback. A bug of ours is never a UserError and keeps its traceback.
    """


class Stopped(Exception):
    """The program stopped because the user asked for it, and nothing is lost. `common.cli` prints the message."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def quoted(value: object, limit: int = 60) -> str:
    """Return wrong input in quotes for a message: control characters escaped, cut after `limit` characters."""
    text = str(value)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def printable(message: str, limit: int = 1000) -> str:
    """Return a message that is safe for a terminal: control characters escaped, lines cut after `limit` characters."""
    return "\n".join(one_line(line, limit) for line in message.split("\n"))


def one_line(text: str, limit: int = 1000) -> str:
    """Return a text from outside for the middle of a message: as printable does, with line breaks escaped, too."""
    text = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
