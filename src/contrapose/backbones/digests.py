"""What a model or a run is made of, as a short digest of its files: noted beside whatever was made with it.

Unlike the fingerprint, which knows a network's weights however they are stored, this goes by the files: by all that the
pipeline reads of the model, and by all that is put on it of a run. No network is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.loading import Loading, Source, find
from contrapose.contents import digest_of, digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.runs.adapter_files import DENOISERS
from contrapose.runs.names import FULL_FOLDER, PEFT_CONFIG

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


def run_digest(run: Path) -> str:
    """A digest of the weights of a run's folder, or of one file of adapters.

    Raises `UserError` when there are none.
    """
    if run.is_file():
        return digest_of(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run")
    parts = [f"{file.name} {file_digest(file)}" for file in sorted(run.glob("*.safetensors"))]
    if (run / PEFT_CONFIG).is_file():
        parts.append(file_digest(run / PEFT_CONFIG))
    # of a run that was trained whole, the denoiser is all that is put on another model
    parts += [digest_of(run / FULL_FOLDER / part) for part in DENOISERS if (run / FULL_FOLDER / part).is_dir()]
    if not parts:
        raise UserError(f"{run}: holds no weights; has the run finished?")
    return digest_of_parts(parts)
