"""What a model is made of, as a short digest of its files: noted beside whatever was made with it.

Unlike the fingerprint, which knows a network's weights however they are stored, this goes by all files that the
pipeline reads of the model. No network is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.loading import Source, find
from contrapose.backbones.settings import Loading
from contrapose.contents import digest_of, digest_of_parts, file_digest

_TEXTS = (".json", ".txt", ".model")  # configurations and vocabularies


def model_digest(model: str | Path, loading: Loading) -> str:
    """A digest of everything that is read of a model; weights of variants that are not asked for do not count.

    Raises `UserError` as `find` does.
    """
    source = find(model, BY_PIPELINE, loading.variant)
    if source.path.is_file():
        return digest_of(source.path)
    files = sorted(_read_of(source), key=lambda file: file.relative_to(source.path).as_posix())
    return digest_of_parts(f"{file.relative_to(source.path).as_posix()} {file_digest(file)}" for file in files)


def _read_of(source: Source) -> Iterator[Path]:
    """The files of a pipeline's folder that loading reads."""
    yield source.path / "model_index.json"
    unused = BY_PIPELINE[source.pipeline].unused_parts
    for part in sorted(source.path.iterdir()):
        if not part.is_dir() or part.name in unused or part.name.startswith("."):
            continue
        weights = sorted(part.glob("*.safetensors"))
        if source.variant:
            chosen = [file for file in weights if f".{source.variant}" in file.name]
        else:
            chosen = [file for file in weights if file.name.count(".") == 1]
        yield from chosen or weights
        yield from (file for file in sorted(part.iterdir()) if file.suffix in _TEXTS and ".index." not in file.name)
