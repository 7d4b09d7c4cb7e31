"""The one package that breaks transformers and diffusers by lying beside them: a torchvision of another torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from contrapose.errors import UserError, one_line


def check_torchvision(arguments: Sequence[str]) -> None:
    """Raise `UserError` where torchvision is installed and cannot be imported, before a command needs transformers.

    Nothing here uses it, yet transformers, diffusers and peft import it wherever it is installed, and then say
    "Could not import module 'CLIPImageProcessor'" or worse.
    """
    if "--help" in arguments or "-h" in arguments:
        return
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # it depends on which part does not fit
        raise UserError(
            f"torchvision is installed but broken ({one_line(error)}), and transformers and diffusers fail with it; "
            "nothing here needs it: run 'pip uninstall torchvision', or install the one of your torch"
        ) from error
