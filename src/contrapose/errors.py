"""The one error that is the user's to mend."""


class UserError(Exception):
    """Bad input, told in one line that names the file, row or setting and the mend; the CLI exits with 2.

    Not a `ValueError`, since the option parser catches those and tells them its own way.
    """
