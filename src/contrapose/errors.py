"""The one error that is the user's to mend."""


class UserError(ValueError):
    """Bad input, told in one line that names the file, row or setting and the mend; the CLI exits with 2."""
