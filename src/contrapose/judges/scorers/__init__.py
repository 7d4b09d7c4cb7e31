"""Scorers: one number an image, of how good it is or how well it fits its prompt, by published networks.

A scorer's settings are a frozen dataclass that can stand in a run file; `load` reads its weights from this machine. A
new one is one file and one line of the table below.
"""

from contrapose.judges.scorers.aesthetic import Aesthetic
from contrapose.judges.scorers.clip_score import CLIPScore
from contrapose.judges.scorers.pick_score import PickScore
from contrapose.judges.scorers.scorer import Scorer
from contrapose.judges.scorers.yes_no import YesNo

AnyScorer = PickScore | CLIPScore | Aesthetic | YesNo
SCORERS: dict[str, type] = {"pickscore": PickScore, "clipscore": CLIPScore, "aesthetic": Aesthetic, "yes-no": YesNo}

__all__ = ["SCORERS", "Aesthetic", "AnyScorer", "CLIPScore", "PickScore", "Scorer", "YesNo"]
