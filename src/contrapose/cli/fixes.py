"""What the user can do about an error, in one line, and whose of several processes it is."""

from __future__ import annotations

from contrapose.cli.memory import OutOfMemory, ran_out
from contrapose.cli.sharing import OF_ONE
from contrapose.errors import UserError
from contrapose.files import full, is_full


def message_of(error: Exception) -> str | None:
    """What the user can do about an error; None where it may be ours."""
    if isinstance(error, UserError):
        return str(error)
    if _is_left_alone(error):
        return (
            "another process of this run has ended, or cannot be reached; what was said before tells why, unless it "
            "was killed; the same command carries on from the last kept step"
        )
    if ran_out(error):
        return "out of memory; close what else uses it, or take less at once, or less precision; what is saved stays"
    if is_full(error):  # some libraries have errors of their own for it
        return str(full(getattr(error, "filename", None) or "output"))
    return _fixable(error) if isinstance(error, OSError) else None


def is_of_one(error: Exception) -> bool:
    """Whether of several processes others may go on without it, or have told of something else."""
    if is_full(error):
        return True  # and where all have told of it, a launcher may have ended the first one before it could
    return isinstance(error, OutOfMemory) or _is_left_alone(error) or OF_ONE in getattr(error, "__notes__", ())


def _is_left_alone(error: Exception) -> bool:
    """Whether this process waited for another one in vain; gloo alone tells that in no error of its own kind."""
    is_of_torch = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return is_of_torch or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _fixable(error: OSError) -> str | None:
    """What the user can do about an error of the file system; None when it may be ours."""
    if error.filename is not None:
        reason = (error.strerror or "cannot be used").lower()
        return f"{error.filename}: {reason}; check the path, or choose another"
    return None
