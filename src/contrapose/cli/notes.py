"""What is said on the way beside the bars: our own notes, and nothing of the libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from contrapose.processes import rank


def quiet_libraries() -> None:
    """Silence what the libraries print; real trouble still arrives as an exception, and our own notes are shown."""
    tell_notes()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import diffusers.utils.logging as of_diffusers
    import huggingface_hub.utils.logging as of_hub
    import transformers.utils.logging as of_transformers

    # on the way too, and not only while models are loaded
    for library in (of_diffusers, of_transformers, of_hub):  # the hub's tells of each of its attempts to reach it
        if library.get_verbosity() != library.ERROR:
            library.set_verbosity_error()


class _Notes(logging.Handler):
    """What a run has to say, above the bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)  # looked up now: a bar puts its own in place of it


def tell_notes() -> None:
    """Show the notes of `contrapose`'s own loggers, once, and of several processes those of the first."""
    logger = logging.getLogger("contrapose")
    if rank() > 0:
        logger.addHandler(logging.NullHandler())
    elif not logger.handlers:
        logger.addHandler(_Notes())
        logger.setLevel(logging.INFO)


def tell(line: object) -> None:
    """Print a line of a command's result, once where several processes come to the same."""
    if rank() == 0:
        print(line)
