"""Weights that are published in a file that could run code; they are converted to .safetensors once, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from contrapose.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

Network = TypeVar("Network", bound="nn.Module")

# Read with `weights_only`, which runs nothing; cloned, since safetensors keeps no two names of one memory.
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "weights = torch.load(sys.argv[1], weights_only=True, map_location='cpu'){within}; "
    'save_file({{name: value.clone() for name, value in weights.items()}}, sys.argv[2])" {published} {converted}'
)


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors publish it."""

    name: str
    """The file's name, such as HPS_v2.1_compressed.pt."""
    how: str
    """How to get it, in the imperative: the part of an error message that follows the file."""
    within: str = ""
    """Where the tensors are in what the file holds, as Python writes it, such as ['state_dict']."""

    @property
    def converted(self) -> Path:
        """The file's usual name after it was converted."""
        return Path(self.name).with_suffix(".safetensors")

    def load(self, user: str, path: Path, make: Callable[[dict[str, Tensor]], Network], kind: str = "") -> Network:
        """The network that `make` makes of the converted weights, which it gets by the authors' names.

        `user` is the judge that needs it, and `kind` what the file must be where it does not fit, the published file
        unless given: both for messages. Raises `UserError` with what to do for a file that is missing, no .safetensors,
        broken or of another network, and for numbers that are not finite.
        """
        from safetensors.torch import load_file

        from contrapose.backbones.networks import check_finite
        from contrapose.judges.pretrained import reading

        if path.suffix != ".safetensors":
            command = self._command(path, path.with_suffix(".safetensors"))
            raise UserError(
                f"{user}: {path}: only .safetensors is read, since other files can run code; convert it once: {command}"
            )
        if not path.is_file():
            command = self._command(self.name, path)
            raise UserError(f"{user}: {path}: no such file; {self.how} and run once: {command}")
        with reading(user, path, f"it must be {kind or self.name + ' converted'}; {self.how}"):
            network = make(load_file(path))
        check_finite(f"{user}: {path}", network)
        return network

    def _command(self, published: Path | str, converted: Path) -> str:
        return _CONVERT.format(within=self.within, published=published, converted=converted)
