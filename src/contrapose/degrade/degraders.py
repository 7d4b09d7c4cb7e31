"""The degraders by name; the type union is the registry, and a new one is one more line here."""

from contrapose.degrade.degrader import Swap, Words
from contrapose.degrade.given import Given
from contrapose.degrade.llm import LlmAesthetics, LlmAlignment
from contrapose.degrade.quality import Quality

AnyDegrader = Words | Swap | Quality | LlmAlignment | LlmAesthetics | Given

DEGRADERS: dict[str, type[AnyDegrader]] = {
    "words": Words,
    "swap": Swap,
    "quality": Quality,
    "llm-alignment": LlmAlignment,
    "llm-aesthetics": LlmAesthetics,
    "given": Given,
}
