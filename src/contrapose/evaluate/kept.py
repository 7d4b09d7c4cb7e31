"""What a judge said of images, kept as it goes: a killed evaluation carries on, and several processes share one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrapose.contents import digest_of_json
from contrapose.evaluate.images import Images, metadata_of
from contrapose.evaluate.rows import Rows, joined, read_rows, write_rows
from contrapose.evaluate.run import ImagePart, counting, judged, parts_of
from contrapose.judges.judge import Judge, images_at_once
from contrapose.store.prompts import Prompt
from contrapose.workers import Worker

_PART = 64  # images whose rows are one file: what a kill may cost


@dataclass(frozen=True)
class KeptRows:
    """Rows of all images in a folder of files, each named by all that decides what is in it."""

    folder: Path
    parts: Sequence[tuple[Path, ImagePart]]
    """The files in their order, and the images of each."""

    @classmethod
    def of(
        cls,
        folder: Path,
        judge: Judge,
        models: Mapping[str, Images],
        prompts: Mapping[str, Sequence[Prompt]],
        inputs: Mapping[str, str],
        settings: object,
    ) -> KeptRows:
        """The files of what a judge says of models' images; `prompts` as `evaluate_images` takes them.

        `inputs` has a digest of each model's images, and `settings` what else decides a number, as JSON holds it.
        Raises `UserError` as `evaluate_images` does.
        """
        parts: list[tuple[Path, ImagePart]] = []
        # a part ends when its last answer comes, so that a server has several rounds of requests in each
        num = max(_PART, 4 * images_at_once(judge, 0))
        for part in parts_of(models, judge, prompts, num):
            shown = [[sample.folder, sample.seed, metadata_of(sample.prompt)] for sample in part.samples]
            by = [judge.name, judge.version, settings]
            name = digest_of_json(by, part.model, inputs[part.model], shown)
            parts.append((folder / f"{name[:32]}.parquet", part))
        return cls(folder, parts)

    def judge(self, judge: Judge, worker: Worker, progress: Callable[[int, int], None] | None) -> None:
        """Judge what is not there yet and no other worker has."""
        tell = counting(sum(len(part.samples) for _, part in self.parts), progress)
        for path, part, task in worker.turns(self.parts):
            if task == "make":
                write_rows(judged(part, judge, tell), path)
            else:
                tell(len(part.samples))

    @property
    def num_missing(self) -> int:
        """Files that are left to other workers."""
        return sum(not path.exists() for path, _ in self.parts)

    def read(self) -> Rows:
        """All rows in their order; `UserError` for a file that is broken."""
        return joined(read_rows(path, seen=True) for path, _ in self.parts)

    def forget_others(self) -> None:
        """Delete the rows of images that were not asked for."""
        of_these = {path for path, _ in self.parts}
        for path in self.folder.glob("*.parquet"):
            if path not in of_these:
                path.unlink(missing_ok=True)
