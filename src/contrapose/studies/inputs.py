"""What a study reads from outside: its prompts, model, pairs and the files that its options name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.store.prompts import canonical, read_prompts
from contrapose.studies.settings import DEV, PromptSource, Study
from contrapose.worlds.shapes.grammar import prompts as shapes_prompts

_SHOWN = 3  # prompts that are named in a complaint


def check_prompts(study: Study) -> None:
    """Raise `UserError` for prompts that cannot be read, and for dev prompts that are reported on too.

    Prompts are compared by their canonical text; those of the shapes world need no file for that.
    """
    texts = {name: _texts(source) for name, source in study.prompts.items()}
    if study.choosing is None:
        return
    for name in dict.fromkeys(evaluation.prompts for evaluation in study.evaluations.values()):
        shared = sorted(texts[DEV].keys() & texts[name].keys())
        if shared:
            shown = "; ".join(texts[name][text] for text in shared[:_SHOWN])
            raise UserError(
                f"prompts {DEV} and {name}: {len(shared)} stand in both ({shown}), so that scales would be chosen on "
                "what is reported; divide them with 'contrapose prompts split'"
            )


def _texts(source: PromptSource) -> dict[str, str]:
    """Prompts as they are written, by their canonical text."""
    if source.shapes is not None:
        texts = [str(line["prompt"]) for line in shapes_prompts(source.shapes, source.per_tag)]
    else:
        assert source.file is not None
        texts = [prompt.text for prompt in read_prompts(source.file)]
    return {canonical(text): text for text in texts}


def inputs_digest(study: Study) -> str:
    """A digest of sizes and times of all files that the study reads from outside.

    A file that was changed, or only touched, is told; what does not lie on this machine counts by its name.
    """
    named = [study.model_path]
    named += [str(source.file) for source in study.prompts.values() if source.file is not None]
    flags = [study.training, study.sampling]
    for pairs in study.pairs.values():
        named += [str(pairs.folder)] if pairs.folder is not None else []
        named += [str(pairs.recipe)] if pairs.recipe is not None else []
        flags.append(pairs.options)
    for method in study.methods.values():
        named.append(method.align)
        flags.append(method.options)
    flags += [guided.options for guided in study.guided.values()]
    flags += [evaluation.options for evaluation in study.evaluations.values()]
    for options in flags:
        named += options.paths()
    return digest_of_parts(sorted({part for name in named for part in _standing(Path(name))}))


def _standing(path: Path) -> list[str]:
    """Name, size and time of a file, or of all files in a folder."""
    files: list[Path] = []
    with suppress(OSError, ValueError):  # a text that is no path
        files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    parts = [str(path)]
    for file in files:
        with suppress(OSError, ValueError):
            standing = file.stat()
            if file.is_file():
                parts.append(f"{file} {standing.st_size} {standing.st_mtime_ns}")
    return parts
