"""Libraries that are kept silent while models are loaded and saved: our own checks tell what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import diffusers.utils.logging as of_diffusers
import transformers.utils.logging as of_transformers
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars


@contextmanager
def silent_libraries() -> Iterator[None]:
    """No bars of diffusers and transformers, and only their errors, while the block lasts.

    What the user had set is restored.
    """
    with ExitStack() as restored:
        for library in (of_diffusers, of_transformers):
            verbosity = library.get_verbosity()
            # commands have silenced them already, and setting it anew goes through all loggers that there are
            if verbosity != library.ERROR:
                restored.callback(library.set_verbosity, verbosity)
                library.set_verbosity_error()
        if of_diffusers.is_progress_bar_enabled():
            restored.callback(of_diffusers.enable_progress_bar)
            of_diffusers.disable_progress_bar()
        if of_transformers.is_progress_bar_enabled():
            # this switch is huggingface_hub's too, which may have stood otherwise
            if are_progress_bars_disabled():
                restored.callback(_unwarned, disable_progress_bars)
            restored.callback(_unwarned, of_transformers.enable_progress_bar)
            _unwarned(of_transformers.disable_progress_bar)
        yield


def _unwarned(switch: Callable[[], object]) -> None:
    """Turn a switch; the hub warns where HF_HUB_DISABLE_PROGRESS_BARS has the last word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        switch()
