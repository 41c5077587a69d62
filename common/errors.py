"""The one error type for everything a user can cause, and the one for stopping when asked."""


class UserError(Exception):
    """Something the user gave, chose or lacks; its message is all they see of it.

    The message is one or two lines: what is wrong, where (file, line, flag), and what to do about it. Rooms
    raise it or a subclass; `common.cli.run` prints `error: {message}` on standard error and ends with exit
    status 2, without a traceback. A bug of ours is never a UserError: it keeps its traceback.
    """


class Stopped(Exception):
    """The user asked the program to stop and it did, with nothing lost; `common.cli` prints the message."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def quoted(value: object, limit: int = 60) -> str:
    """`value` in quotes, for a message: control characters escaped, cut after `limit` characters.

    Input that is wrong may be huge or hold terminal escapes, so it never goes into a message as it is.
    """
    text = str(value)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def printable(message: str, limit: int = 1000) -> str:
    """A message as a terminal may have it: each line cut after `limit` characters, control characters escaped.

    The last resort, for paths and whatever else got into a message without `quoted`.
    """
    def line(text: str) -> str:
        text = text if len(text) <= limit else text[:limit] + "..."
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    return "\n".join(map(line, message.split("\n")))
