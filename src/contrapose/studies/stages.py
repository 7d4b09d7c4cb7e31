"""From a study to the command lines that do it, stage by stage; the lines of one stage do not depend on each other."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from contrapose.errors import UserError
from contrapose.studies.contestants import Contestant, Tried, contestants, run_folder, try_contestant
from contrapose.studies.flags import Flags
from contrapose.studies.settings import BASE, DEV, TEST, Evaluation, Study

_ALL = 100_000  # kept steps: more than any run has


class Chosen(NamedTuple):
    """A guidance scale and a kept step as they are typed; no step is the end of the run."""

    scale: str
    checkpoint: str = ""


class Choices(Protocol):
    """What was chosen on the dev prompts."""

    def best(self, group: str) -> Chosen:
        """A model's own scale and checkpoint."""
        ...

    def checkpoint(self, group: str, scale: str) -> str:
        """Its checkpoint at a scale that all models share; empty where there is none to choose."""
        ...

    def tried(self, method: str) -> Flags:
        """The best of the values that a method is tried with; none where it is not tried."""
        ...


@dataclass(frozen=True)
class CommandLine:
    """A command line, and the file or folder that it writes, if any."""

    words: tuple[str, ...]
    out: Path | None


class StudyStage(NamedTuple):
    """Command lines that may run side by side, once all stages before are done."""

    title: str
    lines: list[CommandLine]


def stages(study: Study, choices: Choices) -> Iterator[StudyStage]:
    """All stages but the report, in order; `choices` are asked when a stage needs them, and not before."""
    written = [_shapes_prompts(study, name) for name, source in study.prompts.items() if source.shapes]
    if written:
        yield StudyStage("prompts", written)
    photos = []
    for name, number in study.photos.items():
        folder = photos_folder(study, name)
        words = ("shapes", "photos", "--out", str(folder), "--num-photos", str(number))
        photos.append(CommandLine(words, folder))
    if photos:
        yield StudyStage("photographs", photos)
    needs = {name: (source.of,) for name, source in study.pairs.items() if source.folder is None}
    for ready in _in_order("pairs", needs):
        yield StudyStage("pairs", [_pairs(study, name) for name in ready])
    if study.pairs:
        checks = [CommandLine(("pairs", "check", str(pairs_folder(study, name))), None) for name in study.pairs]
        yield StudyStage("check of the pairs", checks)
    for level in levels(study):
        yield from _trained(study, level, choices)
    if study.choosing:
        yield from _on_dev(study, choices)
    yield from _shared_scales(study, choices)
    if study.choosing:
        yield from _own_scales(study, choices)


def check_outs(planned: Iterable[StudyStage]) -> None:
    """Raise `UserError` where two command lines that differ would write the same file or folder."""
    writers: dict[Path, CommandLine] = {}
    for stage in planned:
        for line in stage.lines:
            if line.out is not None and writers.setdefault(line.out, line) != line:
                raise UserError(f"{line.out}: two models of this study would share it; give one another name")


def fix_of(study: Study, line: CommandLine, error: UserError) -> str:
    """Beside correcting a line that is refused: an option that is tried of all methods is one that some do not have."""
    tried = study.choosing.tries.values if study.choosing else {}
    # a whole option: one may begin with another, or hold settings of its own behind a dot
    named = set(re.findall(r"--([\w-]+(?:\.[\w-]+)*)", str(error)))
    is_of_tries = line.words[0] == "align" and not named.isdisjoint(tried)
    return "; a method without the option is given tries of its own (methods: NAME: tries)" if is_of_tries else ""


def prompts_file(study: Study, name: str) -> Path:
    """Where a list of prompts lies."""
    source = study.prompts[name]
    return source.file if source.file is not None else study.out / f"{name}.jsonl"


def pairs_folder(study: Study, name: str) -> Path:
    """Where pairs lie; a study's only ones need no name there."""
    folder = study.pairs[name].folder
    if folder is not None:
        return folder
    return study.out / "pairs" if len(study.pairs) == 1 else study.out / "pairs" / name


def evidence_folder(study: Study, evaluation: str, at: str) -> Path:
    """Where the models are judged at a shared scale (`scale-3`) or at their own (`best`)."""
    folder = study.out / "evidence"
    return folder / at if len(study.evaluations) == 1 else folder / evaluation / at


def dev_evidence(study: Study, scale: str) -> Path:
    """Where the candidates of one scale are judged on the dev prompts."""
    return study.out / "evidence" / DEV / f"scale-{scale}"


def tries_evidence(study: Study, method: str) -> Path:
    """Where a method's tries are judged on the dev prompts, with those of all methods that are trained beside it."""
    tried = [level for level in levels(study) if any(map(study.is_tried, level))]
    number = next(number for number, level in enumerate(tried, start=1) if method in level)
    return study.out / "evidence" / DEV / ("tries" if len(tried) == 1 else f"tries-{number}")


def tried_at(study: Study) -> str:
    """The guidance scale at which tries are compared."""
    at = study.choosing.tried_at if study.choosing else None
    return f"{study.scales[-1] if at is None else at:g}"


def levels(study: Study) -> list[list[str]]:
    """Methods in the order of training: those that need no other's run, then those that need theirs, and so on."""
    return list(_in_order("methods", {name: method.needs for name, method in study.methods.items()}))


def checkpoints(study: Study, contestant: Contestant) -> tuple[str, ...]:
    """The kept steps that a model's checkpoint is chosen from."""
    steps = study.choosing.checkpoints if study.choosing and contestant.runs else ()
    return tuple(map(str, sorted(steps))) or ("",)


def all_evidence(study: Study) -> list[Path]:
    """The evaluations on what is reported, in the report's order."""
    folders = []
    for name in study.evaluations:
        folders += [evidence_folder(study, name, f"scale-{scale:g}") for scale in study.scales]
        if study.choosing:
            folders.append(evidence_folder(study, name, "best"))
    return folders


def all_runs(study: Study, tried: Tried) -> list[Path]:
    """The folders of all runs but those of tries that were not chosen."""
    return [run_folder(study, name, seed, tried(name)) for name in study.methods for seed in study.seeds]


def _shapes_prompts(study: Study, name: str) -> CommandLine:
    source = study.prompts[name]
    path = prompts_file(study, name)
    split = ("--split", str(source.shapes), "--per-tag", str(source.per_tag))
    return CommandLine(("shapes", "prompts", str(path), *split), path)


def photos_folder(study: Study, name: str) -> Path:
    """Where photographs of the shapes world lie."""
    return study.out / "photos" / name


def _pairs(study: Study, name: str) -> CommandLine:
    source = study.pairs[name]
    out = pairs_folder(study, name)
    words = ["pairs", source.made_by, *([] if source.recipe is None else [str(source.recipe)])]
    if source.is_derived:
        words.append(str(pairs_folder(study, source.of)))
    else:
        words += ["--model", study.model_path]
    drawn_from = study.prompts_of(source)
    if drawn_from and source.made_by != "label":
        words += ["--prompts", str(prompts_file(study, drawn_from))]
    if source.photos:
        words += ["--photos", str(photos_folder(study, source.photos))]
    return CommandLine((*words, "--out", str(out), *source.options.words(study.model_path)), out)


def _in_order(what: str, needs: Mapping[str, Collection[str]]) -> Iterator[list[str]]:
    """Names in the order of their needs: first those that need none of the others, then those that need these, ...

    Raises `UserError` for a circle.
    """
    waiting = dict(needs)
    while waiting:
        ready = [name for name, needed in waiting.items() if not waiting.keys() & set(needed)]
        if not ready:
            raise UserError(f"{what} {', '.join(waiting)}: each waits for another of them; break the circle")
        yield ready
        for name in ready:
            del waiting[name]


def _trained(study: Study, level: list[str], choices: Choices) -> Iterator[StudyStage]:
    """The runs of methods that need none of each other's: tries with the first seed, and the other seeds as chosen."""
    first, *further = study.seeds
    tried = [name for name in level if study.is_tried(name)]
    if tried:
        yield from _tries(study, tried, first, choices)
    lines: list[CommandLine] = []
    for name in level:
        chosen = choices.tried(name) if name in tried else Flags()
        seeds = further if name in tried else study.seeds
        lines += [_align(study, name, seed, chosen, choices) for seed in seeds]
    if lines:
        yield StudyStage("training", lines)


def _tries(study: Study, methods: list[str], seed: int, choices: Choices) -> Iterator[StudyStage]:
    """Every try of these methods, and its images of the dev prompts beside the base's, in one evaluation."""
    trained: list[CommandLine] = []
    models = [Contestant(BASE, BASE, BASE, {})]
    for name in methods:
        for values in study.tries_of(name):
            trained.append(_align(study, name, seed, values, choices))
            models.append(try_contestant(study, name, values))
    at = Chosen(tried_at(study))
    images = {model.name: _images(study, DEV, model, at) for model in models}
    title = f"Tries on dev prompts, guidance scale {at.scale}"
    judged = _evaluate(study, study.deciding, images, tries_evidence(study, methods[0]), title)
    yield StudyStage("training of tries", trained)
    yield StudyStage("images of dev prompts by tries", [_sample(study, DEV, model, at) for model in models])
    yield StudyStage("choice among tries", [judged])


def _align(study: Study, name: str, seed: int, values: Flags, choices: Choices) -> CommandLine:
    """The line that trains a method with these of the values that it is tried with."""
    method = study.methods[name]
    out = run_folder(study, name, seed, values)

    def run_of(other: str) -> str:
        return str(run_folder(study, other, seed, choices.tried(other)))

    if method.prompts:
        compared = [prompts_file(study, method.prompts)]
    else:
        compared = [pairs_folder(study, pairs) for pairs in study.pairs_of(method)]
    words = ["align", method.align, "--model", study.model_path, "--pairs", *map(str, compared), "--out", str(out)]
    if method.start is not None:
        words += ["--start", run_of(method.start)]
    if method.policies:
        words += ["--policies", *map(run_of, method.policies)]
    options = values.over(method.options.over(study.training))
    steps = study.choosing.checkpoints if study.choosing and method.shown else ()
    if steps:
        # every step to choose from is kept, whatever else the options say
        options = Flags({"save-every": math.gcd(*steps), "keep": _ALL}).over(options)
    return CommandLine((*words, *options.words(study.model_path), "--seed", str(seed)), out)


def _sample(study: Study, prompts: str, contestant: Contestant, chosen: Chosen) -> CommandLine:
    out = _images(study, prompts, contestant, chosen)
    number = study.prompts[prompts].num_images or study.num_images
    words = ["sample", "--model", study.model_path, "--prompts", str(prompts_file(study, prompts)), "--out", str(out)]
    words += [*contestant.words(chosen.checkpoint), *contestant.options.words(study.model_path)]
    words += ["--num-images", str(number), "--guidance-scale", chosen.scale]
    # of an option that stands twice in a line the last one counts, which would be the study's
    shared = study.sampling.without(contestant.options.values)
    return CommandLine((*words, *shared.words(study.model_path)), out)


def _images(study: Study, prompts: str, contestant: Contestant, chosen: Chosen) -> Path:
    folder = study.out / "images" if prompts == TEST else study.out / "images" / prompts
    return folder / f"scale-{chosen.scale}" / contestant.folder_at(chosen.checkpoint)


def _evaluate(study: Study, name: str, images: dict[str, Path], out: Path, title: str) -> CommandLine:
    evaluation = study.evaluations[name]
    folders = [f"{model}={folder}" for model, folder in images.items()]
    words = ["evaluate", "--suite", evaluation.suite, "--images", *folders, "--out", str(out), "--title", title]
    return CommandLine((*words, *evaluation.options.words(study.model_path)), out)


def _on_dev(study: Study, choices: Choices) -> Iterator[StudyStage]:
    """Every candidate's images of the dev prompts, judged scale by scale."""
    assert study.choosing is not None
    drawn: list[CommandLine] = []
    judged: list[CommandLine] = []
    for scale in sorted(study.choosing.scales):
        images: dict[str, Path] = {}
        for contestant in contestants(study, choices.tried):
            for checkpoint in checkpoints(study, contestant):
                chosen = Chosen(f"{scale:g}", checkpoint)
                drawn.append(_sample(study, DEV, contestant, chosen))
                images[contestant.named(checkpoint)] = _images(study, DEV, contestant, chosen)
        title = f"Dev prompts, guidance scale {scale:g}"
        judged.append(_evaluate(study, study.deciding, images, dev_evidence(study, f"{scale:g}"), title))
    yield StudyStage("images of dev prompts", drawn)
    yield StudyStage("choice on dev prompts", judged)


def _shared_scales(study: Study, choices: Choices) -> Iterator[StudyStage]:
    def chosen(contestant: Contestant, scale: str) -> Chosen:
        has_choice = checkpoints(study, contestant) != ("",)
        return Chosen(scale, choices.checkpoint(contestant.group, scale) if has_choice else "")

    drawn: list[CommandLine] = []
    judged: list[CommandLine] = []
    for scale in [f"{scale:g}" for scale in study.scales]:
        at = {contestant: chosen(contestant, scale) for contestant in contestants(study, choices.tried)}
        drawn += _drawn(study, at)
        for name, evaluation in study.evaluations.items():
            title = _title(study, name, f"Guidance scale {scale}")
            out = evidence_folder(study, name, f"scale-{scale}")
            judged.append(_evaluate(study, name, _judged_images(study, evaluation, at), out, title))
    yield StudyStage("images", drawn)
    yield StudyStage("evaluation", judged)


def _own_scales(study: Study, choices: Choices) -> Iterator[StudyStage]:
    at = {contestant: choices.best(contestant.group) for contestant in contestants(study, choices.tried)}
    judged: list[CommandLine] = []
    for name, evaluation in study.evaluations.items():
        title = _title(study, name, "Each model at its own guidance scale")
        out = evidence_folder(study, name, "best")
        judged.append(_evaluate(study, name, _judged_images(study, evaluation, at), out, title))
    yield StudyStage("images at each model's own scale", list(_drawn(study, at)))
    yield StudyStage("evaluation at each model's own scale", judged)


def _drawn(study: Study, at: dict[Contestant, Chosen]) -> Iterator[CommandLine]:
    """Images of all prompts that something is judged on."""
    for prompts in dict.fromkeys(evaluation.prompts for evaluation in study.evaluations.values()):
        for contestant, chosen in at.items():
            yield _sample(study, prompts, contestant, chosen)


def _judged_images(study: Study, evaluation: Evaluation, at: dict[Contestant, Chosen]) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for contestant, chosen in at.items():
        images[contestant.name] = _images(study, evaluation.prompts, contestant, chosen)
    return images


def _title(study: Study, evaluation: str, at: str) -> str:
    return at if len(study.evaluations) == 1 else f"{evaluation}: {at[0].lower()}{at[1:]}"


def report_line(study: Study, tried: Tried) -> CommandLine:
    """The command line of the page, without what a study alone can tell."""
    out = study.out / "report.html"
    words = ["report", "--run", *map(str, all_runs(study, tried)), "--evidence", *map(str, all_evidence(study))]
    words += ["--pairs", str(pairs_folder(study, next(iter(study.pairs))))] if len(study.pairs) == 1 else []
    return CommandLine((*words, "--title", study.title, "--out", str(out)), out)
