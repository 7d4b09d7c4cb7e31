"""Contrapose: preference alignment of diffusion models without preference labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrapose.backbones.decoder import Decoder as Decoder
    from contrapose.backbones.families.table import load_backbone as load_backbone
    from contrapose.backbones.kinds import Decomposed as Decomposed
    from contrapose.backbones.kinds import LoHa as LoHa
    from contrapose.backbones.kinds import LoKr as LoKr
    from contrapose.backbones.kinds import PlainLora as PlainLora
    from contrapose.backbones.kinds import RankStabilised as RankStabilised
    from contrapose.backbones.settings import Adapters as Adapters
    from contrapose.draw.pairs import Draw as Draw
    from contrapose.draw.pairs import draw_pairs as draw_pairs
    from contrapose.draw.pairs import plan_pairs as plan_pairs
    from contrapose.estimate.estimate import estimate_run as estimate_run
    from contrapose.estimate.settings import Setup as Setup
    from contrapose.evaluate.run import evaluate_images as evaluate_images
    from contrapose.evaluate.summing import summarize as summarize
    from contrapose.exchange.exports import Export as Export
    from contrapose.exchange.exports import export_pairs as export_pairs
    from contrapose.exchange.imports import Import as Import
    from contrapose.exchange.imports import import_pairs as import_pairs
    from contrapose.exchange.imports import plan_import as plan_import
    from contrapose.exchange.imports import read_listing as read_listing
    from contrapose.guiding.guide import guide as guide
    from contrapose.guiding.images import Sampling as Sampling
    from contrapose.guiding.images import sample_images as sample_images
    from contrapose.guiding.merge import Merge as Merge
    from contrapose.guiding.merge import merge as merge
    from contrapose.guiding.nag import nag as nag
    from contrapose.judges.aesthetic import Aesthetic as Aesthetic
    from contrapose.judges.clip_score import CLIPScore as CLIPScore
    from contrapose.judges.pick_score import PickScore as PickScore
    from contrapose.judges.yes_no import YesNo as YesNo
    from contrapose.methods import CHATS as CHATS
    from contrapose.methods import DDSPO as DDSPO
    from contrapose.methods import SFT as SFT
    from contrapose.methods import DataDrivenDDSPO as DataDrivenDDSPO
    from contrapose.methods import DiffusionDPO as DiffusionDPO
    from contrapose.methods import DiffusionDRO as DiffusionDRO
    from contrapose.methods import DiffusionKTO as DiffusionKTO
    from contrapose.methods import RealAlign as RealAlign
    from contrapose.photographs.real import Real as Real
    from contrapose.photographs.real import make_pairs as make_pairs
    from contrapose.publish.card import finish_run as finish_run
    from contrapose.report.page import Report as Report
    from contrapose.report.page import write_report as write_report
    from contrapose.report.pairs_page import write_pairs_page as write_pairs_page
    from contrapose.store.groups import GroupStore as GroupStore
    from contrapose.train.align import align as align
    from contrapose.train.settings import Optimisation as Optimisation
    from contrapose.train.settings import Run as Run

__version__ = "0.1.0"

# Where each public name lives, as above for editors; imported when it is first used, since torch takes seconds.
_HOMES = {
    "Decoder": "backbones.decoder",
    "load_backbone": "backbones.families.table",
    "PlainLora": "backbones.kinds",
    "RankStabilised": "backbones.kinds",
    "Decomposed": "backbones.kinds",
    "LoKr": "backbones.kinds",
    "LoHa": "backbones.kinds",
    "Adapters": "backbones.settings",
    "Draw": "draw.pairs",
    "draw_pairs": "draw.pairs",
    "plan_pairs": "draw.pairs",
    "Setup": "estimate.settings",
    "estimate_run": "estimate.estimate",
    "evaluate_images": "evaluate.run",
    "summarize": "evaluate.summing",
    "Export": "exchange.exports",
    "export_pairs": "exchange.exports",
    "Import": "exchange.imports",
    "import_pairs": "exchange.imports",
    "plan_import": "exchange.imports",
    "read_listing": "exchange.imports",
    "guide": "guiding.guide",
    "Sampling": "guiding.images",
    "sample_images": "guiding.images",
    "Merge": "guiding.merge",
    "merge": "guiding.merge",
    "nag": "guiding.nag",
    "Aesthetic": "judges.aesthetic",
    "CLIPScore": "judges.clip_score",
    "PickScore": "judges.pick_score",
    "YesNo": "judges.yes_no",
    "CHATS": "methods",
    "DDSPO": "methods",
    "DataDrivenDDSPO": "methods",
    "DiffusionDPO": "methods",
    "DiffusionDRO": "methods",
    "DiffusionKTO": "methods",
    "RealAlign": "methods",
    "SFT": "methods",
    "Real": "photographs.real",
    "make_pairs": "photographs.real",
    "finish_run": "publish.card",
    "Report": "report.page",
    "write_report": "report.page",
    "write_pairs_page": "report.pairs_page",
    "GroupStore": "store.groups",
    "align": "train.align",
    "Optimisation": "train.settings",
    "Run": "train.settings",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"contrapose.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'contrapose' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
