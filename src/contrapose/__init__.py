"""Contrapose: preference alignment of diffusion models without preference labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from contrapose.unwarned import unwarned_of_torchvision

if TYPE_CHECKING:
    from contrapose.backbones.decoder import Decoder as Decoder
    from contrapose.backbones.families.table import load_backbone as load_backbone
    from contrapose.backbones.families.table import prompt_reader as prompt_reader
    from contrapose.backbones.kinds import Decomposed as Decomposed
    from contrapose.backbones.kinds import LoHa as LoHa
    from contrapose.backbones.kinds import LoKr as LoKr
    from contrapose.backbones.kinds import PlainLora as PlainLora
    from contrapose.backbones.kinds import RankStabilised as RankStabilised
    from contrapose.backbones.settings import Adapters as Adapters
    from contrapose.backbones.settings import Haste as Haste
    from contrapose.backbones.settings import Loading as Loading
    from contrapose.backbones.speed import hasten as hasten
    from contrapose.cli.study_lines import run_study as run_study
    from contrapose.core.guards import SDPO as SDPO
    from contrapose.core.guards import Cooling as Cooling
    from contrapose.core.guards import Unguarded as Unguarded
    from contrapose.core.guidance import PGD as PGD
    from contrapose.core.guidance import CHATSGuidance as CHATSGuidance
    from contrapose.core.guidance import ContrastivePGD as ContrastivePGD
    from contrapose.core.guidance import DiffusionNPO as DiffusionNPO
    from contrapose.core.links import IPO as IPO
    from contrapose.core.links import Hinge as Hinge
    from contrapose.core.links import Sigmoid as Sigmoid
    from contrapose.degrade.degrader import Swap as Swap
    from contrapose.degrade.degrader import Words as Words
    from contrapose.degrade.given import Given as Given
    from contrapose.degrade.llm import LlmAesthetics as LlmAesthetics
    from contrapose.degrade.llm import LlmAlignment as LlmAlignment
    from contrapose.degrade.quality import Quality as Quality
    from contrapose.draw.pairs import Draw as Draw
    from contrapose.draw.pairs import draw_pairs as draw_pairs
    from contrapose.draw.pairs import plan_pairs as plan_pairs
    from contrapose.errors import UserError as UserError
    from contrapose.estimate.estimate import estimate_run as estimate_run
    from contrapose.estimate.fitting import fit_card as fit_card
    from contrapose.estimate.hours import stage_times as stage_times
    from contrapose.estimate.settings import Setup as Setup
    from contrapose.estimate.settings import Speed as Speed
    from contrapose.evaluate.compbench.suite import CompBench as CompBench
    from contrapose.evaluate.evidence import Evidence as Evidence
    from contrapose.evaluate.evidence import read_evidence as read_evidence
    from contrapose.evaluate.evidence import read_judged as read_judged
    from contrapose.evaluate.geneval.suite import GenEval as GenEval
    from contrapose.evaluate.lines import summary_lines as summary_lines
    from contrapose.evaluate.questions.suite import Questions as Questions
    from contrapose.evaluate.run import evaluate_images as evaluate_images
    from contrapose.evaluate.sets.extractors import ClipFeatures as ClipFeatures
    from contrapose.evaluate.sets.extractors import DinoFeatures as DinoFeatures
    from contrapose.evaluate.sets.extractors import InceptionFeatures as InceptionFeatures
    from contrapose.evaluate.sets.extractors import NoFeatures as NoFeatures
    from contrapose.evaluate.sets.extractors import PixelFeatures as PixelFeatures
    from contrapose.evaluate.sets.suite import Sets as Sets
    from contrapose.evaluate.suites import Scores as Scores
    from contrapose.evaluate.suites import Unjudged as Unjudged
    from contrapose.evaluate.summary import Summary as Summary
    from contrapose.evaluate.summing import SummarySettings as SummarySettings
    from contrapose.evaluate.summing import summarize as summarize
    from contrapose.evaluate.taking import Taking as Taking
    from contrapose.exchange.exports import Export as Export
    from contrapose.exchange.exports import export_pairs as export_pairs
    from contrapose.exchange.exports import is_exported as is_exported
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
    from contrapose.guiding.play import Player as Player
    from contrapose.guiding.play_page import build_play_page as build_play_page
    from contrapose.guiding.settings import Guiding as Guiding
    from contrapose.guiding.settings import Play as Play
    from contrapose.judges.aesthetic import Aesthetic as Aesthetic
    from contrapose.judges.clip_score import CLIPScore as CLIPScore
    from contrapose.judges.colours import Colours as Colours
    from contrapose.judges.endpoint import EndpointQuestion as EndpointQuestion
    from contrapose.judges.hpsv2 import HPSv20 as HPSv20
    from contrapose.judges.hpsv2 import HPSv21 as HPSv21
    from contrapose.judges.hpsv3 import HPSv3 as HPSv3
    from contrapose.judges.http_scorer import HTTPScorer as HTTPScorer
    from contrapose.judges.image_reward import ImageReward as ImageReward
    from contrapose.judges.implicit_reward import ImplicitReward as ImplicitReward
    from contrapose.judges.pick_score import PickScore as PickScore
    from contrapose.judges.self_confidence import SelfConfidence as SelfConfidence
    from contrapose.judges.vqa_score import VQAScore as VQAScore
    from contrapose.judges.yes_no import YesNo as YesNo
    from contrapose.labels.label import label_groups as label_groups
    from contrapose.labels.label import plan_labels as plan_labels
    from contrapose.labels.score import score_groups as score_groups
    from contrapose.labels.settings import Labelling as Labelling
    from contrapose.labels.settings import Scoring as Scoring
    from contrapose.methods import AWM as AWM
    from contrapose.methods import CHATS as CHATS
    from contrapose.methods import CRD as CRD
    from contrapose.methods import D3PO as D3PO
    from contrapose.methods import DDSPO as DDSPO
    from contrapose.methods import DGPO as DGPO
    from contrapose.methods import DMPO as DMPO
    from contrapose.methods import DSPO as DSPO
    from contrapose.methods import NFT as NFT
    from contrapose.methods import SFT as SFT
    from contrapose.methods import SPO as SPO
    from contrapose.methods import TDPO as TDPO
    from contrapose.methods import TKTO as TKTO
    from contrapose.methods import CaPO as CaPO
    from contrapose.methods import DataDrivenDDSPO as DataDrivenDDSPO
    from contrapose.methods import DiffusionDPO as DiffusionDPO
    from contrapose.methods import DiffusionDRO as DiffusionDRO
    from contrapose.methods import DiffusionKTO as DiffusionKTO
    from contrapose.methods import DiffusionLPO as DiffusionLPO
    from contrapose.methods import InPO as InPO
    from contrapose.methods import MaPO as MaPO
    from contrapose.methods import OnlineDPO as OnlineDPO
    from contrapose.methods import RankDPO as RankDPO
    from contrapose.methods import RealAlign as RealAlign
    from contrapose.methods import SelfNPO as SelfNPO
    from contrapose.methods import SmPO as SmPO
    from contrapose.methods import TailorPO as TailorPO
    from contrapose.methods.judged_groups import JudgedGroups as JudgedGroups
    from contrapose.methods.judged_groups import OldPolicy as OldPolicy
    from contrapose.photographs.captions import Captioner as Captioner
    from contrapose.photographs.filters import AestheticScore as AestheticScore
    from contrapose.photographs.filters import CaptionLength as CaptionLength
    from contrapose.photographs.filters import Colourfulness as Colourfulness
    from contrapose.photographs.filters import IsPhotograph as IsPhotograph
    from contrapose.photographs.filters import PhotoSize as PhotoSize
    from contrapose.photographs.filters import ScorerGap as ScorerGap
    from contrapose.photographs.filters import TopK as TopK
    from contrapose.photographs.real import Real as Real
    from contrapose.photographs.real import make_pairs as make_pairs
    from contrapose.photographs.spoil.degrade import Degrade as Degrade
    from contrapose.photographs.spoil.generate import Generate as Generate
    from contrapose.photographs.spoil.inpaint import Inpaint as Inpaint
    from contrapose.photographs.spoil.noise import Noise as Noise
    from contrapose.photographs.spoil.redraw import Redraw as Redraw
    from contrapose.publish.card import finish_run as finish_run
    from contrapose.publish.exports import export_kohya as export_kohya
    from contrapose.publish.hub import push as push
    from contrapose.report.contact_sheet import write_contact_sheet as write_contact_sheet
    from contrapose.report.forms import write_tables as write_tables
    from contrapose.report.page import Report as Report
    from contrapose.report.page import write_report as write_report
    from contrapose.report.pairs_page import write_pairs_page as write_pairs_page
    from contrapose.report.sweep import read_sweep as read_sweep
    from contrapose.report.sweep import read_sweeps as read_sweeps
    from contrapose.report.sweep import write_sweep_page as write_sweep_page
    from contrapose.runs.folder import RunFolder as RunFolder
    from contrapose.store.check import check_pairs as check_pairs
    from contrapose.store.groups import GroupStore as GroupStore
    from contrapose.store.mixture import Mixture as Mixture
    from contrapose.store.named_prompts import named_prompts as named_prompts
    from contrapose.store.prompts import Prompt as Prompt
    from contrapose.store.prompts import read_prompts as read_prompts
    from contrapose.store.splits import Splitting as Splitting
    from contrapose.store.splits import describe_prompts as describe_prompts
    from contrapose.store.splits import shared_prompts as shared_prompts
    from contrapose.store.splits import split_prompts as split_prompts
    from contrapose.studies.choosing import DevChoices as DevChoices
    from contrapose.studies.quickstart import Quickstart as Quickstart
    from contrapose.studies.report import write_study_report as write_study_report
    from contrapose.studies.settings import Study as Study
    from contrapose.studies.settings import read_study as read_study
    from contrapose.studies.shell import plan_study as plan_study
    from contrapose.studies.sweeping import judge_sweep as judge_sweep
    from contrapose.studies.sweeping import plan_sweep as plan_sweep
    from contrapose.studies.sweeping import sample_sweep as sample_sweep
    from contrapose.train.align import align as align
    from contrapose.train.settings import First as First
    from contrapose.train.settings import Optimisation as Optimisation
    from contrapose.train.settings import Run as Run
    from contrapose.train.settings import Watching as Watching
    from contrapose.train.settings import read_run as read_run
    from contrapose.train.sharding_settings import Sharding as Sharding
    from contrapose.worlds.evaluation import evaluate_models as evaluate_models
    from contrapose.worlds.evaluation import lay_out_images as lay_out_images
    from contrapose.worlds.gaussians.settings import Toy as Toy
    from contrapose.worlds.gaussians.toy import run_toy as run_toy
    from contrapose.worlds.settings import Judging as Judging
    from contrapose.worlds.settings import Sweeping as Sweeping
    from contrapose.worlds.shapes.files import write_shapes_photos as write_shapes_photos
    from contrapose.worlds.shapes.files import write_shapes_prompts as write_shapes_prompts
    from contrapose.worlds.shapes.pretrain import pretrain_shapes as pretrain_shapes
    from contrapose.worlds.shapes.settings import Pretraining as Pretraining
    from contrapose.worlds.shapes.shipped import shipped_model as shipped_model
    from contrapose.worlds.shapes.suite import Shapes as Shapes
    from contrapose.worlds.suites import OwnWorld as OwnWorld

__version__ = "0.1.0"

# Where each public name lives, as above for editors; imported when it is first used, since torch takes seconds.
_NAMES = {
    "backbones.decoder": "Decoder",
    "backbones.families.table": "load_backbone prompt_reader",
    "backbones.kinds": "PlainLora RankStabilised Decomposed LoKr LoHa",
    "backbones.settings": "Adapters Loading Haste",
    "backbones.speed": "hasten",
    "cli.study_lines": "run_study",
    "core.guards": "Cooling SDPO Unguarded",
    "core.guidance": "PGD ContrastivePGD DiffusionNPO CHATSGuidance",
    "core.links": "Sigmoid IPO Hinge",
    "degrade.degrader": "Words Swap",
    "degrade.given": "Given",
    "degrade.llm": "LlmAlignment LlmAesthetics",
    "degrade.quality": "Quality",
    "draw.pairs": "Draw draw_pairs plan_pairs",
    "errors": "UserError",
    "estimate.estimate": "estimate_run",
    "estimate.fitting": "fit_card",
    "estimate.hours": "stage_times",
    "estimate.settings": "Setup Speed",
    "evaluate.compbench.suite": "CompBench",
    "evaluate.evidence": "Evidence read_evidence read_judged",
    "evaluate.geneval.suite": "GenEval",
    "evaluate.lines": "summary_lines",
    "evaluate.questions.suite": "Questions",
    "evaluate.run": "evaluate_images",
    "evaluate.sets.extractors": "ClipFeatures DinoFeatures InceptionFeatures NoFeatures PixelFeatures",
    "evaluate.sets.suite": "Sets",
    "evaluate.suites": "Scores Unjudged",
    "evaluate.summary": "Summary",
    "evaluate.summing": "SummarySettings summarize",
    "evaluate.taking": "Taking",
    "exchange.exports": "Export export_pairs is_exported",
    "exchange.imports": "Import import_pairs plan_import read_listing",
    "guiding.guide": "guide",
    "guiding.images": "Sampling sample_images",
    "guiding.merge": "Merge merge",
    "guiding.nag": "nag",
    "guiding.play": "Player",
    "guiding.play_page": "build_play_page",
    "guiding.settings": "Guiding Play",
    "judges.aesthetic": "Aesthetic",
    "judges.clip_score": "CLIPScore",
    "judges.colours": "Colours",
    "judges.endpoint": "EndpointQuestion",
    "judges.hpsv2": "HPSv20 HPSv21",
    "judges.hpsv3": "HPSv3",
    "judges.http_scorer": "HTTPScorer",
    "judges.image_reward": "ImageReward",
    "judges.implicit_reward": "ImplicitReward",
    "judges.pick_score": "PickScore",
    "judges.self_confidence": "SelfConfidence",
    "judges.vqa_score": "VQAScore",
    "judges.yes_no": "YesNo",
    "labels.label": "label_groups plan_labels",
    "labels.score": "score_groups",
    "labels.settings": "Labelling Scoring",
    "methods": """
        AWM CHATS CaPO DDSPO DGPO DMPO DSPO MaPO OnlineDPO NFT D3PO TailorPO SPO RankDPO DataDrivenDDSPO DiffusionDPO
        CRD DiffusionDRO DiffusionKTO InPO SmPO SelfNPO DiffusionLPO RealAlign SFT TDPO TKTO
        """,
    "methods.judged_groups": "OldPolicy JudgedGroups",
    "photographs.captions": "Captioner",
    "photographs.filters": "AestheticScore CaptionLength Colourfulness IsPhotograph PhotoSize ScorerGap TopK",
    "photographs.real": "Real make_pairs",
    "photographs.spoil.degrade": "Degrade",
    "photographs.spoil.generate": "Generate",
    "photographs.spoil.inpaint": "Inpaint",
    "photographs.spoil.noise": "Noise",
    "photographs.spoil.redraw": "Redraw",
    "publish.card": "finish_run",
    "publish.exports": "export_kohya",
    "publish.hub": "push",
    "report.contact_sheet": "write_contact_sheet",
    "report.forms": "write_tables",
    "report.page": "Report write_report",
    "report.pairs_page": "write_pairs_page",
    "report.sweep": "read_sweep read_sweeps write_sweep_page",
    "runs.folder": "RunFolder",
    "store.check": "check_pairs",
    "store.groups": "GroupStore",
    "store.mixture": "Mixture",
    "store.named_prompts": "named_prompts",
    "store.prompts": "Prompt read_prompts",
    "store.splits": "Splitting split_prompts shared_prompts describe_prompts",
    "studies.choosing": "DevChoices",
    "studies.quickstart": "Quickstart",
    "studies.report": "write_study_report",
    "studies.settings": "Study read_study",
    "studies.shell": "plan_study",
    "studies.sweeping": "plan_sweep sample_sweep judge_sweep",
    "train.align": "align",
    "train.settings": "First Optimisation Run read_run Watching",
    "train.sharding_settings": "Sharding",
    "worlds.evaluation": "evaluate_models lay_out_images",
    "worlds.gaussians.settings": "Toy",
    "worlds.gaussians.toy": "run_toy",
    "worlds.settings": "Judging Sweeping",
    "worlds.shapes.files": "write_shapes_prompts write_shapes_photos",
    "worlds.shapes.pretrain": "pretrain_shapes",
    "worlds.shapes.settings": "Pretraining",
    "worlds.shapes.shipped": "shipped_model",
    "worlds.shapes.suite": "Shapes",
    "worlds.suites": "OwnWorld",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        with unwarned_of_torchvision():
            return getattr(import_module(f"contrapose.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'contrapose' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
