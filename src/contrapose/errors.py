"""The one error that is the user's to fix."""


class UserError(Exception):
    """Bad input, told in one line that names the file, row or setting and the fix; the CLI exits with 2.

    Not a `ValueError`, since the option parser catches those and tells them its own way.
    """


def one_line(error: object) -> str:
    """What an error says, in one line of 300 letters at most; its kind where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else text[:300] + " ..."
