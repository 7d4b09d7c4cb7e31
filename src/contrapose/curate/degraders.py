"""The degraders by name; the type union is the registry, and a new one is one more line here."""

from contrapose.curate.degrade import Swap, Words
from contrapose.curate.given import Given
from contrapose.curate.llm import LlmAesthetics, LlmAlignment

AnyDegrader = Words | Swap | LlmAlignment | LlmAesthetics | Given

DEGRADERS: dict[str, type[AnyDegrader]] = {
    "words": Words,
    "swap": Swap,
    "llm-alignment": LlmAlignment,
    "llm-aesthetics": LlmAesthetics,
    "given": Given,
}
