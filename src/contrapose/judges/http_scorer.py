"""Numbers from a server that scores images: plain JSON both ways, never anything that could run here."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL.Image import Image

from contrapose.asking import Asking, Job
from contrapose.contents import digest_of_json, digest_of_parts
from contrapose.endpoints import Endpoint, RefusedInput
from contrapose.errors import UserError, one_line
from contrapose.judges.judge import Judge, Marks
from contrapose.judges.shown import as_png, check_metric_name, digest_of_pixels
from contrapose.judges.written import is_number
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical
from contrapose.store.prompts import Prompt

PROTOCOL = 1
"""Counted up when what is sent, or how an answer is read, changes."""


@dataclass(frozen=True)
@checked
class HTTPScorer:
    """What a server says of images, in as many numbers as it gives, by a protocol of our own (docs/judges.md).

    Asked by GET, the server tells its version and its metrics, unless `scorer` and `higher` or `lower` do; asked by
    POST about a batch of images and prompts, it answers with the numbers of each. Raises `UserError` for settings that
    do not go together.
    """

    address: Practical[str] = "http://127.0.0.1:8001/score"
    """Address of the scorer, the whole of it."""
    scorer: str = ""
    """Name and version of what scores, such as hpsv3-1.0, for a server that does not tell; to be changed with it."""
    higher: tuple[str, ...] = ()
    """With scorer: its numbers of which higher is better, the one that matters most first."""
    lower: tuple[str, ...] = ()
    """With scorer: its numbers of which lower is better."""
    batch_size: Practical[Batch] = 8
    """Images in one request; decides no result."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        names = [*self.higher, *self.lower]
        if bool(self.scorer) != bool(names):
            raise UserError("scorer: give it and the names of its numbers (higher, lower) together, or none of them")
        _check_names("http", names)

    def load(self, device: str) -> Judge:
        """Raises `UserError` for an address that is none, and for a server that cannot be worked with."""
        endpoint = self.asking.endpoint(self.address, None)
        metrics = dict.fromkeys(self.higher, True) | dict.fromkeys(self.lower, False)
        version = self.scorer
        if not version:
            version, metrics = _told(endpoint)
        return ScorerJudge(endpoint, version, metrics, self.batch_size, self.asking)


class ScorerJudge:
    """The judge of a server that scores; its name is that of the number that matters most."""

    def __init__(
        self, endpoint: Endpoint, scorer: str, metrics: Mapping[str, bool], batch_size: int, asking: Asking
    ) -> None:
        self.higher_is_better = dict(metrics)
        self.name = next(iter(metrics))
        self.version = digest_of_parts([PROTOCOL, scorer, *metrics])
        self._endpoint = endpoint
        self._batch_size = batch_size
        self._asking = asking

    @property
    def at_once(self) -> int:
        return self._asking.at_once * self._batch_size

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for an answer that cannot be used, and where the server cannot be worked with."""
        keys = []
        for image, prompt in zip(images, prompts, strict=True):
            keys.append(digest_of_json("http", PROTOCOL, self.version, digest_of_pixels(image), prompt.text))
        answers: dict[str, Any] = {}
        for key, entry in self._asking.answers.get(set(keys)).items():
            if self._complaint(entry) is None:
                answers[key] = entry
        missing: dict[str, tuple[Image, Prompt]] = {}
        for key, image, prompt in zip(keys, images, prompts, strict=True):
            if key not in answers:
                missing[key] = (image, prompt)
        waiting = list(missing)
        jobs: list[Job] = []
        for first in range(0, len(waiting), self._batch_size):
            batch = {key: missing[key] for key in waiting[first : first + self._batch_size]}
            jobs.append(partial(self._scored, batch))
        answers |= self._asking.carry_out(jobs)
        marks: dict[str, Marks] = {}
        for name in self.higher_is_better:
            marks[name] = Marks(np.array([float(answers[key][name]) for key in keys], dtype=np.float64))
        return marks

    def _scored(self, batch: Mapping[str, tuple[Image, Prompt]]) -> dict[str, dict[str, float]]:
        entries = []
        for image, prompt in batch.values():
            entries.append({"image": base64.b64encode(as_png(image)).decode("ascii"), "prompt": prompt.text})
        url = self._endpoint.url
        try:
            answer = self._endpoint.post({"images": entries})
        except RefusedInput as refused:
            raise UserError(f"http: {url}: refuses a batch of {len(batch)} images ({refused}); ask for fewer") from None
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list):
            raise UserError(
                f"http: {url}: {one_line(json.dumps(answer)[:80])} holds no list `scores`; see docs/judges.md"
            )
        if len(scores) != len(batch):
            raise UserError(f"http: {url}: gave {len(scores)} scores of {len(batch)} images; it must give one of each")
        kept = {}
        for key, entry in zip(batch, scores, strict=True):
            complaint = self._complaint(entry)
            if complaint is not None:
                raise UserError(f"http: {url}: {one_line(json.dumps(entry)[:80])} {complaint}; correct the scorer")
            kept[key] = {name: float(entry[name]) for name in self.higher_is_better}
        return kept

    def _complaint(self, entry: Any) -> str | None:
        """Why what the server says of one image cannot be used."""
        for name in self.higher_is_better:
            if not isinstance(entry, dict) or not is_number(entry.get(name)):
                return f"gives no finite number {name}"
        return None


def _told(endpoint: Endpoint) -> tuple[str, dict[str, bool]]:
    """The version and the metrics that a server tells; `UserError` for anything else."""
    answer = endpoint.get()
    version = answer.get("version") if isinstance(answer, dict) else None
    metrics = answer.get("higher_is_better") if isinstance(answer, dict) else None
    sound = isinstance(metrics, dict) and metrics and all(isinstance(value, bool) for value in metrics.values())
    if not isinstance(version, str) or not version or not sound:
        raise UserError(
            f"http: {endpoint.url}: tells no `version` and `higher_is_better` when asked by GET; see docs/judges.md, "
            "or give scorer and higher"
        )
    assert isinstance(metrics, dict)
    _check_names(f"http: {endpoint.url}", list(metrics))
    return version, metrics


def _check_names(where: str, names: Sequence[str]) -> None:
    for name in names:
        check_metric_name(where, name)
        if names.count(name) > 1:
            raise UserError(f"{where}: {name} is named twice; name each number once")
