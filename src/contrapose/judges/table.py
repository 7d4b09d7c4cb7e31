"""Every judge that can be named in settings; a new one is one file and one line here.

A judge's settings are a frozen dataclass that can stand in a run file; `load` reads its weights from this machine. Its
module imports torch in `load` alone, so that a command's help need not wait for it.
"""

from __future__ import annotations

from contrapose.judges.aesthetic import Aesthetic
from contrapose.judges.clip_score import CLIPScore
from contrapose.judges.colours import Colours
from contrapose.judges.endpoint import EndpointQuestion
from contrapose.judges.hpsv2 import HPSv20, HPSv21
from contrapose.judges.hpsv3 import HPSv3
from contrapose.judges.http_scorer import HTTPScorer
from contrapose.judges.image_reward import ImageReward
from contrapose.judges.implicit_reward import ImplicitReward
from contrapose.judges.pick_score import PickScore
from contrapose.judges.self_confidence import SelfConfidence
from contrapose.judges.vqa_score import VQAScore
from contrapose.judges.yes_no import YesNo

AnyJudge = (
    PickScore | HPSv20 | HPSv21 | HPSv3 | ImageReward | CLIPScore | Aesthetic | YesNo | VQAScore | Colours
    | EndpointQuestion | HTTPScorer | SelfConfidence | ImplicitReward
)  # fmt: skip
JUDGES: dict[str, type[AnyJudge]] = {
    "pickscore": PickScore,
    "hpsv2.0": HPSv20,
    "hpsv2.1": HPSv21,
    "hpsv3": HPSv3,
    "imagereward": ImageReward,
    "clipscore": CLIPScore,
    "aesthetic": Aesthetic,
    "yes-no": YesNo,
    "vqascore": VQAScore,
    "colourfulness": Colours,
    "endpoint": EndpointQuestion,
    "http": HTTPScorer,
    "self-confidence": SelfConfidence,
    "implicit-reward": ImplicitReward,
}
