"""What was judged, as GenEval's scripts write it: a model's `results.jsonl`, and what `summary_scores.py` prints of it.

evidence/results/NAME.jsonl   an image a line: filename, tag, prompt, correct, reason, metadata, details, and colors
                NAME.txt      counts, each category's share of correct images, and the mean of these shares
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from contrapose.evaluate.images import Images, PromptFolder, metadata_of, prompt_folders
from contrapose.evaluate.rows import EvidenceRow, prompt_id, read_seen
from contrapose.files import write_text


def write_results(rows: Path, models: Mapping[str, Images], title: str, out: Path) -> None:
    """Write both files of each of these models, where its judge said what it saw, into the folder `out`.

    Metadata, details and colors are JSON within JSON, as GenEval's scripts expect of the first two. Differs from these:
    `colors` is added, and rows are in the order of prompts and seeds.
    """
    for model, of_model in groupby(read_seen(rows), key=lambda row: row.model):
        if model not in models:  # a bound, whose images are another model's, or drawn
            continue
        name = quote(model, safe=" ")  # a name may hold slashes
        tally = Tally(title, model)
        lines: list[str] = []
        for result in _results(of_model, models[model]):
            tally.count(result)
            lines.append(json.dumps(result, ensure_ascii=False) + "\n")
        write_text(out / f"{name}.jsonl", "".join(lines))
        write_text(out / f"{name}.txt", tally.text())


def _results(rows: Iterator[EvidenceRow], images: Images) -> Iterator[dict[str, Any]]:
    """A model's lines, each image's with its file's name."""
    folders: dict[str, PromptFolder] = {}
    for folder in prompt_folders(images):
        folders[prompt_id(folder.name, folder.prompt.text)] = folder
    for row in rows:
        folder = folders[row.prompt_id]
        seen = json.loads(row.seen or "{}")
        yield {
            "filename": str(folder.samples[row.seed]),
            "tag": row.tag,
            "prompt": folder.prompt.text,
            "correct": row.value == 1,
            "reason": row.reason or "",
            "metadata": json.dumps(metadata_of(folder.prompt)),
            "details": json.dumps(seen.get("details", {})),
            "colors": json.dumps(seen.get("colors", {})),
        }


@dataclass
class Tally:
    """GenEval's summary of one model's results, counted line by line."""

    title: str
    """What the numbers are called."""
    model: str
    tags: dict[str, list[bool]] = field(default_factory=dict)
    """By category, whether each image is correct."""
    prompts: dict[str, bool] = field(default_factory=dict)
    """By metadata, whether any image of the prompt is correct."""

    def count(self, result: Mapping[str, Any]) -> None:
        self.tags.setdefault(result["tag"], []).append(result["correct"])
        before = self.prompts.get(result["metadata"], False)
        self.prompts[result["metadata"]] = before or result["correct"]

    def text(self) -> str:
        """The lines of `summary_scores.py`, under a line with the title and the model."""
        every = [correct for corrects in self.tags.values() for correct in corrects]
        lines = [
            f"{self.title}: {self.model}",
            "",
            "Summary",
            "=======",
            f"Total images: {len(every)}",
            f"Total prompts: {len(self.prompts)}",
            f"% correct images: {_share(every):.2%}",
            f"% correct prompts: {_share(list(self.prompts.values())):.2%}",
            "",
            "Task breakdown",
            "==============",
        ]
        for tag, corrects in self.tags.items():
            lines.append(f"{tag:<16} = {_share(corrects):.2%} ({sum(corrects)} / {len(corrects)})")
        shares = [_share(corrects) for corrects in self.tags.values()]
        overall = sum(shares) / len(shares)
        return "\n".join([*lines, "", f"Overall score (avg. over tasks): {overall:.5f}", ""])


def _share(correct: list[bool]) -> float:
    return sum(correct) / len(correct)
