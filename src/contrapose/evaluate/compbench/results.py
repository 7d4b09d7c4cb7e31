"""What was judged, as T2I-CompBench's scripts write it: an answer for each image, and their mean.

evidence/results/NAME_CATEGORY/vqa_result.json   [{"question_id": 0, "answer": 0.5}, ...]
                               avg_score.txt     score avg:0.5
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from contrapose.evaluate.compbench.suite import NAME, OF_LINE
from contrapose.evaluate.rows import EvidenceRow
from contrapose.files import write_text


def write_answers(rows: Iterable[EvidenceRow], setting: str, out: Path) -> None:
    """Write both files of each model and category into a folder; `setting` is the suite's category.

    `question_id` is the number in an image's name, which is its seed; where two prompts of a model and category share a
    seed, it counts the images by prompt and seed.
    """
    images: dict[tuple[str, str], list[EvidenceRow]] = {}
    for row in rows:
        if row.metric == NAME:
            category = row.tag.replace("_val", "") if setting == OF_LINE else setting
            images.setdefault((row.model, category), []).append(row)
    for (model, category), judged in images.items():
        judged.sort(key=lambda row: (row.prompt_id, row.seed))
        seeds = {row.seed for row in judged}
        answers: list[dict[str, Any]] = []
        for place, row in enumerate(judged):
            number = row.seed if len(seeds) == len(judged) else place
            answers.append({"question_id": number, "answer": row.value})
        answers.sort(key=lambda answer: answer["question_id"])
        mean = sum(row.value for row in judged) / len(judged)
        folder = out / f"{quote(model, safe=' ')}_{category}"
        write_text(folder / "vqa_result.json", json.dumps(answers))
        write_text(folder / "avg_score.txt", f"score avg:{mean}")
