"""Where a run is shown while it trains: TensorBoard, and services by their own packages, through accelerate's trackers.

`metrics.jsonl` is what a run measured; trackers get the same numbers, the images and the settings. A run that goes on
continues what it began with each service (`trackers.json` keeps the keys), and what was sent of steps that are trained
again after a kill is not sent twice, but for the one that was being sent. A tracker that fails on the way is told of
and left out, and training goes on.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.errors import UserError, one_line
from contrapose.evaluate.images import read_image
from contrapose.files import write_text
from contrapose.runs.names import RUN_FILE, TRACKERS
from contrapose.runs.watched import film, watched_folder
from contrapose.train.settings import CONVERTER
from contrapose.train.stages import Stage

_BOARD = "tensorboard"
_MODULES = {"comet": "comet_ml"}  # where a package is not called as its tracker
_LONGEST = 60  # characters of a prompt in an image's name
log = logging.getLogger(__name__)


def check_installed(names: Collection[str]) -> None:
    """Raise `UserError` with the command that installs a tracker which is not there."""
    for name in names:
        module = _MODULES.get(name, name)
        if find_spec(module) is None:
            raise UserError(f"trackers: {name} is not installed; run 'pip install {module}', or leave it out")


class Trackers:
    """The trackers of a run as one, for a `with` block.

    `start` is the step that training goes on from, and `measured` the last one that was measured before a kill. Raises
    `UserError` for a tracker that does not start.
    """

    def __init__(self, stage: Stage, start: int, measured: int):
        self._stage = stage
        self._running: dict[str, GeneralTracker] = {}
        self._sent: dict[str, int] = {}
        keys = _keys(stage.folder)
        for name in dict.fromkeys(stage.run.watching.trackers):
            goes_on = start > 0 if name == _BOARD else name in keys
            key = keys.get(name) or uuid4().hex
            options = _options(name, self._name, key, goes_on)
            if name == _BOARD:
                # it hides what it has of later steps, which are trained again
                options = {"logging_dir": stage.folder, "purge_step": start + 1 if start else 0}
            if goes_on:
                self._sent[name] = start if name == _BOARD else measured
            self._begin(name, options, goes_on)
            if name != _BOARD:
                keys[name] = _key_of(name, self._running[name], key)
                write_text(stage.folder / TRACKERS, json.dumps(keys, indent=1) + "\n")

    @property
    def _name(self) -> str:
        """What the run is called: by its user, or by its folder; what it begins with has its own folder's name too."""
        folder = self._stage.folder.resolve()
        by_user = self._stage.run.watching.run_name
        if self._stage.earlier:
            return f"{by_user or folder.parent.name}-{folder.name}"
        return by_user or folder.name

    def _begin(self, name: str, options: Mapping[str, Any], goes_on: bool) -> None:
        """Start a tracker, and tell one that is new of the run's settings."""
        run = self._stage.run
        kind = LOGGER_TYPE_TO_CLASS[_MODULES.get(name, name)]
        try:
            # TensorBoard's folder is called by its tracker, below the run's
            tracker = kind(_BOARD if name == _BOARD else run.watching.project, **options)
            if hasattr(tracker, "start"):  # earlier versions of accelerate start at once
                tracker.start()
            if name == "comet":
                tracker.tracker.set_name(self._name)
            if not goes_on and name == _BOARD:
                tracker.log({RUN_FILE: f"```\n{runfile.to_yaml(run, CONVERTER)}```"}, step=0)
            elif not goes_on:
                tracker.store_init_configuration(dict(_flat(CONVERTER.unstructure(run))))
        except Exception as error:  # each service has errors of its own
            raise UserError(
                f"trackers: {name} does not start ({one_line(error)}); correct that, or leave it out of --trackers"
            ) from None
        self._running[name] = tracker

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self._ask(name, self._running[name].finish)

    def send(self, step: int, metrics: Mapping[str, float], is_new: bool = False) -> None:
        """Send a step's metrics, and the images that were drawn at it, unless the tracker has had that step.

        `is_new` sends what came to a step later, as the images of a run that is watched from there on.
        """
        images = list(_images(self._stage.folder, step))
        for name in list(self._running):
            if step <= self._sent.get(name, -1) and not is_new:
                continue
            log_numbers = self._running[name].log
            numbers = dict(metrics)
            if name in ("mlflow", "swanlab"):  # whose names have no such sign
                numbers = {metric.replace("@", "_at_"): value for metric, value in metrics.items()}
            if numbers:
                self._ask(name, log_numbers, numbers, step=step)
            for title, image in images:
                self._ask(name, _send_image, name, self._running.get(name), title, image, step)

    def _ask(self, name: str, what: Callable[..., object], *values: object, **named: object) -> None:
        """Ask a tracker, and leave it out from now on where it fails: no service is worth a training."""
        if name not in self._running:
            return
        try:
            what(*values, **named)
        except Exception as error:  # each service has errors of its own
            del self._running[name]
            log.warning(f"trackers: {name} fails and is left out ({one_line(error)})")


def _options(name: str, called: str, key: str, goes_on: bool) -> dict[str, Any]:
    """How a service's run is begun or continued, in its package's own words."""
    continued = {"run_id": key} if goes_on else {}
    by_name = {"name": key, "resume": "allow"} if goes_on else {"name": called, "resume": "never"}
    options: dict[str, dict[str, Any]] = {
        "wandb": {"name": called, "id": key, "resume": "allow"},
        "mlflow": {"run_name": called, **continued},
        "trackio": by_name,
        "comet": {"experiment_key": key, "mode": "get_or_create"},
        "swanlab": {"experiment_name": called, "id": key[:21], "resume": "allow"},
    }
    return options.get(name, {})


def _key_of(name: str, tracker: GeneralTracker, key: str) -> str:
    """What a later start needs to continue this run: the key that it was begun with, or what the service says."""
    match name:
        case "mlflow":
            return str(tracker.tracker.info.run_id)
        case "trackio":
            return str(tracker.tracker.name)
    return key


def _send_image(name: str, tracker: GeneralTracker, title: str, image: Image.Image, step: int) -> None:
    """Send one image, whose title is its number and its prompt."""
    number = title.partition(" ")[0]
    match name:
        case "tensorboard":
            tracker.log_images({title: np.asarray(image)[None]}, step=step, dataformats="NHWC")
        case "wandb":
            tracker.log_images({title: [image]}, step=step)
        case "swanlab":
            tracker.log_images({number: [image]}, step=step)
        case "mlflow":
            importlib.import_module("mlflow").log_image(image, key=number.replace("/", "-"), step=step)
        case "trackio":
            tracker.log({title: importlib.import_module("trackio").Image(image)}, step=step)
        case "comet":
            tracker.tracker.log_image(image, name=title, step=step)


def _images(run: Path, step: int) -> Iterator[tuple[str, Image.Image]]:
    """The images that a run drew at a step, with what they are called."""
    # at most steps nothing is drawn, and no folder of an earlier one is to be read for that
    if not watched_folder(run, step).is_dir():
        return
    # numbered over all steps, so that an image keeps its name where prompts were added or left out on the way
    for number, strip in enumerate(film(run)):
        if step in strip.paths:
            title = f"images/{number:02d} {strip.prompt[:_LONGEST]} (seed {strip.seed})"
            yield title, read_image(strip.paths[step])


def _keys(run: Path) -> dict[str, str]:
    """The keys of what a run began with each service."""
    path = run / TRACKERS
    if not path.is_file():
        return {}
    fix = "delete it, and each tracker begins a new run"
    keys = load_json(path, fix)
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise UserError(f"{path}: a key for each tracker was expected; {fix}")
    return keys


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Every setting by its dotted name, as trackers hold them: numbers, yes or no, and texts."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (str, int, float)) else str(value)
