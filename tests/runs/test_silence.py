"""Libraries are silent while we load and save, and as the user had them before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import diffusers.utils.logging as of_diffusers
import pytest
import transformers.utils.logging as of_transformers
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

import contrapose as cp
from contrapose.runs.saving import save_full
from contrapose.runs.silence import silent_libraries

LIBRARIES = (of_diffusers, of_transformers)


@pytest.fixture
def as_imported() -> Iterator[None]:
    """Bars and warnings of the libraries, as somebody has them who sets nothing; put back to what they were."""
    hub_had_bars = not are_progress_bars_disabled()
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in LIBRARIES]
    for library in LIBRARIES:
        library.set_verbosity_warning()
        library.enable_progress_bar()
    yield
    for library, verbosity, has_bars in before:
        library.set_verbosity(verbosity)
        if not has_bars:
            library.disable_progress_bar()
    (enable_progress_bars if hub_had_bars else disable_progress_bars)()


@pytest.mark.usefixtures("as_imported")
def test_loading_and_saving_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backbone = cp.load_backbone(str(cp.shipped_model()))
    save_full(tmp_path, backbone.sampler.stock, "unet", backbone.denoiser.network, "shapes")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.usefixtures("as_imported")
@pytest.mark.parametrize("hub_has_bars", [True, False])
def test_what_the_user_had_set_is_restored_after_errors_too(hub_has_bars: bool) -> None:
    if not hub_has_bars:
        disable_progress_bars()
    with pytest.raises(KeyError), silent_libraries(), silent_libraries():
        for library in LIBRARIES:
            assert library.get_verbosity() == of_transformers.ERROR and not library.is_progress_bar_enabled()
        raise KeyError
    for library in LIBRARIES:
        assert library.get_verbosity() == of_transformers.WARNING and library.is_progress_bar_enabled()
    assert are_progress_bars_disabled() != hub_has_bars
