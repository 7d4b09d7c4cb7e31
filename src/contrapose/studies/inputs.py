"""What a study reads from outside: its prompts, model, pairs and the files that its options name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.loading import check_model
from contrapose.containers.places import place_of
from contrapose.containers.readers import readable
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.evaluate.summary import FORMAT
from contrapose.store.manifest import NOTES, read_manifest
from contrapose.store.prompts import Prompt, canonical, read_prompts
from contrapose.studies.settings import DEV, PromptSource, Study
from contrapose.studies.stages import CommandLine, evidence_folder
from contrapose.worlds.shapes.grammar import prompts as shapes_prompts

_SHOWN = 3  # prompts that are named in a complaint


def check_inputs(study: Study) -> list[str]:
    """Raise `UserError` for a model, pairs or prompts that cannot be read, and for dev prompts that are reported on.

    Returns what is to be told of prompts that are trained on and reported on too, which published experiments have.
    Prompts are compared by their canonical text; those of the shapes world need no file for that.
    """
    texts: dict[str, dict[str, str]] = {}
    for name, source in study.prompts.items():
        texts[name] = {canonical(prompt.text): prompt.text for prompt in prompts_of(source)}
    reported = list(dict.fromkeys(evaluation.prompts for evaluation in study.evaluations.values()))
    if study.choosing is not None:
        for shared in _shared([DEV], reported, texts):
            raise UserError(
                f"{shared}, so that scales would be chosen on what is reported; divide them with "
                "'contrapose prompts split'"
            )
    for pairs in study.pairs.values():
        if pairs.folder is not None:
            with readable(place_of(pairs.folder)):
                read_manifest(place_of(pairs.folder))
    check_model(study.model_path, BY_PIPELINE)
    trained_on = _shared(study.prompts_drawn_from, reported, texts)
    return [f"{shared}: methods are trained on what is reported" for shared in trained_on]


def check_steps(study: Study, read: Mapping[CommandLine, Any]) -> None:
    """Raise `UserError` for checkpoints beyond the end of a run; `read` is what command lines are read into."""
    checkpoints = study.choosing.checkpoints if study.choosing is not None else ()
    for line, settings in read.items():
        if line.words[0] == "align":
            last = settings.run.optimisation.train_steps
            beyond = [step for step in checkpoints if step > last]
            if beyond:
                raise UserError(f"choosing: checkpoints {beyond[0]} is beyond the {last} steps of training")


def check_judged(study: Study, read: Mapping[CommandLine, Any]) -> None:
    """Raise `UserError` for prompts that an evaluation's suite cannot judge; `read` as of `check_steps`."""
    by_out = {line.out: settings for line, settings in read.items()}
    for name, evaluation in study.evaluations.items():
        judging = by_out[evidence_folder(study, name, f"scale-{study.scales[0]:g}")].judging
        if judging.taking.prompts is not None:
            continue  # a list of its own completes what the study's says of its prompts
        lists = [evaluation.prompts]
        if study.choosing is not None and name == study.deciding:
            lists.append(DEV)
        for prompts in dict.fromkeys(lists):
            try:
                judging.suite.check(prompts_of(study.prompts[prompts]))
            except UserError as error:
                raise UserError(f"evaluations {name}: prompts {prompts}: {error}") from None


def _shared(lists: Sequence[str], reported: Sequence[str], texts: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What two lists of prompts have in common, in words, of every two that have something."""
    for name in dict.fromkeys(lists):
        for other in reported:
            shared = sorted(texts[name].keys() & texts[other].keys())
            if shared:
                shown = "; ".join(texts[other][text] for text in shared[:_SHOWN])
                yield f"prompts {name} and {other}: {len(shared)} stand in both ({shown})"


def prompts_of(source: PromptSource) -> list[Prompt]:
    """A list's prompts, as they are drawn and judged; `UserError` for a file that cannot be read."""
    if source.file is not None:
        return read_prompts(source.file)
    assert source.shapes is not None
    prompts: list[Prompt] = []
    for line in shapes_prompts(source.shapes, source.per_tag):
        fields = dict(line)
        prompts.append(Prompt(str(fields.pop("prompt")), fields))
    return prompts


def inputs_digest(study: Study) -> str:
    """A digest of sizes and times of all files that the study reads from outside.

    A file that was changed, or only touched, is told; what does not lie on this machine counts by its name. The format
    of summaries counts too, so that those of an older one are summed up anew.
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
        flags += [method.options, *([method.tries] if method.tries is not None else [])]
    flags += [study.choosing.tries] if study.choosing is not None else []
    flags += [guided.options for guided in study.guided.values()]
    flags += [sampled.options for sampled in study.sampled.values()]
    flags += [evaluation.options for evaluation in study.evaluations.values()]
    for options in flags:
        named += options.paths()
    # what the study itself writes, such as its photographs, is known by the lines that wrote it
    outside = [Path(name) for name in named if not Path(name).is_relative_to(study.out)]
    parts = {part for path in outside for part in _standing(path)}
    return digest_of_parts([FORMAT, *sorted(parts)])


def _standing(path: Path) -> list[str]:
    """Name, size and time of a file, or of all files in a folder but for what readers of it leave there."""
    files: list[Path] = []
    with suppress(OSError, ValueError):  # a text that is no path
        files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    parts = [str(path)]
    for file in files:
        with suppress(OSError, ValueError):
            standing = file.stat()
            # notes of shards, and what one that was killed had begun of them
            is_left = file != path and (file.name in NOTES or file.name.startswith("."))
            if file.is_file() and not is_left:
                parts.append(f"{file} {standing.st_size} {standing.st_mtime_ns}")
    return parts
