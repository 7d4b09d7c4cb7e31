"""A run file says everything that decides a run: it round-trips, and a mistake in it is told in one line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from contrapose import runfile
from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.backbones.settings import Adapters, Haste, Loading
from contrapose.core.guards import SDPO, Cooling
from contrapose.core.links import IPO, Hinge, Sigmoid
from contrapose.errors import UserError
from contrapose.methods import (
    AWM,
    CHATS,
    CRD,
    D3PO,
    DDSPO,
    DGPO,
    DMPO,
    DSPO,
    METHODS,
    NFT,
    SFT,
    SPO,
    TDPO,
    TKTO,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionKTO,
    DiffusionLPO,
    InPO,
    MaPO,
    Method,
    OnlineDPO,
    RankDPO,
    RealAlign,
    SelfNPO,
    SmPO,
    TailorPO,
)
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.methods.own_samples import OwnSamples
from contrapose.methods.own_steps import StepSampling
from contrapose.train.settings import CONVERTER, LINKS, Optimisation, Run, Watching
from contrapose.train.sharding import check_sharding
from contrapose.train.sharding_settings import Sharding
from contrapose.train.stages import stages

RUN = Run("a model", Path("pairs"), DDSPO())
METHODS_WITH_LINKS = [
    *(
        cls(link=link, beta=12.5, weighting="linear")
        for cls in (DDSPO, DiffusionDPO, DataDrivenDDSPO)
        for link in (IPO(0.2), Hinge(2.0))
    ),
    DDSPO(link=Sigmoid(0.1), losers="random-positive", space="x0"),
    DSPO(beta=12.5, form="squared"),
    DiffusionDPO(guard=SDPO(0.6)),
    DDSPO(guard=Cooling(2.0)),
    DMPO(beta=12.5, alpha=0.1, guard=SDPO(0.6)),
    MaPO(beta=0.3, steepness=0.7),
    TDPO(beta=12.5),
    TKTO(beta=12.5, utility="loss-averse", dislike_weight=0.5),
    CaPO(beta=12.5, judge="pickscore"),
    DiffusionLPO(num_samples=3),
    RankDPO(judge="pickscore", num_samples=3),
    SPO(tie_margin=0.1, sampling=StepSampling(rollout_eta=0.5)),
    TailorPO(beta=3.0, candidates=4),
    D3PO(clip=0.2),
    OnlineDPO(tie_margin=0.1, sampling=OwnSamples(samples_per_prompt=3, rollout_size="64x32")),
    DGPO(
        beta=12.5,
        groups=JudgedGroups(OwnSamples(24), advantage_limit=3.0),
        against="old",
        old=OldPolicy(0.999, 0.0075, 75),
    ),
    NFT(strength=0.1, groups=JudgedGroups(OwnSamples(3), True, "pickscore"), old=OldPolicy(None), space=None),
    CRD(beta=12.5, sampler_decay=0.9, sampler_delay=3),
    AWM(error_power=0.5, ratio_clip=0.2, old=OldPolicy(0.2, None)),
    SFT("loser"),
    CHATS(beta=12.5, dropout=0.2, space="x0"),
    DiffusionDRO(real_margin=0.1, samples="renoised"),
    DiffusionKTO(beta=12.5, utility="loss-averse", like_share=None),
    InPO(beta=12.5, inversion_steps=3, inversion_eta=0.0),
    SelfNPO(descent_steps=3, teacher_decay=0.9),
    SmPO(beta=12.5, judge="pickscore", sureness=3.0),
    RealAlign(beta=12.5, link=IPO(0.2), stage1=DiffusionDRO(real_margin=0.1, rollout_steps=7)),
]


def test_the_list_above_is_whole() -> None:
    assert {type(method) for method in METHODS_WITH_LINKS} == set(METHODS.values())
    assert {type(m.link) for m in METHODS_WITH_LINKS if hasattr(m, "link")} == set(LINKS.values())


@pytest.mark.parametrize("method", METHODS_WITH_LINKS, ids=str)
def test_round_trip(method: Method, tmp_path: Path) -> None:
    run = Run(
        "猫/model", Path("some pairs"), method, precision="bf16", seed=7, lora_rank=4, lora_alpha=8.0,
        optimisation=Optimisation(learning_rate=1e-7, train_steps=3, ema_decay=0.999),
        watching=Watching(max_drift=0.25),
    )  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(runfile.to_yaml(run, CONVERTER), encoding="utf-8")
    assert runfile.read(path, Run, CONVERTER) == run


def test_defaults_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: a model\npairs: pairs\nmethod: {name: ddspo, link: {name: sigmoid}}\n")
    assert runfile.read(tmp_path / "run.yaml", Run, CONVERTER) == RUN


@pytest.mark.parametrize("name", METHODS)
def test_a_section_of_a_method_that_is_given_in_part_is_as_usual_in_the_rest(name: str) -> None:
    """As on the command line: a method may have other usual settings than the section's class has."""
    usual = METHODS[name]()
    for section in runfile.sections(type(usual)):
        for setting, value in CONVERTER.unstructure(getattr(usual, section)).items():
            in_part = {"name": name, section: {setting: value}}
            assert CONVERTER.structure({"model": "m", "pairs": "p", "method": in_part}, Run).method == usual


def test_a_small_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-5 as text."""
    text = runfile.to_yaml(RUN, CONVERTER).replace("learning_rate: 1.0e-05", "learning_rate: 3e-5")
    (tmp_path / "run.yaml").write_text(text)
    assert runfile.read(tmp_path / "run.yaml", Run, CONVERTER).optimisation.learning_rate == 3e-5


MISTAKES: dict[str, tuple[str, Any, str]] = {
    "unknown setting": ("betta", 3, "betta"),
    "unknown nested setting": ("optimisation.learning_rat", 3, "learning_rat"),
    "unknown setting of a method": ("method.temperature", 3, "temperature"),
    "pairs that are no path": ("pairs", 3, "3 is not a path"),
    "pairs with a NUL": ("pairs", "a\0b", "is not a path"),
    "a list of pairs with a NUL": ("pairs", ["a", "a\0b"], "is not a path"),
    "no pairs": ("pairs", [], "is not a path"),
    "unknown setting of a link": ("method.link.slope", 3, "slope"),
    "missing setting": ("model", None, "model"),
    "missing method": ("method", None, "method"),
    "missing method name": ("method.name", None, "name"),
    "text for a number": ("optimisation.train_steps", "many", "train_steps"),
    "fraction for a count": ("optimisation.batch_size", 8.5, "batch_size"),
    "truth for a count": ("lora_rank", True, "lora_rank"),
    "text for a truth": ("full", "no", "full"),
    "number for text": ("model", 3, "model"),
    "list for a number": ("method.beta", [1, 2], "beta"),
    "wrong choice": ("precision", "fp64", "precision"),
    "wrong choice of a method": ("method.losers", "none", "losers"),
    "wrong method": ("method.name", "dppo", "dppo"),
    "wrong link": ("method.link.name", "tanh", "tanh"),
    "wrong guard": ("method.guard.name", "tanh", "tanh"),
    "not a multiple": ("optimisation.micro_batch", 5, "micro_batch"),
    "not positive": ("optimisation.train_steps", 0, "steps"),
    "unused with another": ("optimisation", {"optimizer": "adafactor", "beta1": 0.5}, "beta1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_and_setting(name: str, tmp_path: Path) -> None:
    key, value, naming = MISTAKES[name]
    raw = CONVERTER.unstructure(RUN)
    *parents, last = key.split(".")
    where = raw
    for parent in parents:
        where = where[parent]
    if value is None:
        del where[last]
    else:
        where[last] = value
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=re.escape(naming)) as caught:
        runfile.read(path, Run, CONVERTER)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    raw = CONVERTER.unstructure(RUN) | {"seed": "x", "full": 3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=r"full.*seed|seed.*full"):
        runfile.read(tmp_path / "run.yaml", Run, CONVERTER)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimisation": Optimisation(optimizer="adamw-8bit")}, "optimizer adamw-8bit"),
        ({"optimisation": Optimisation(optimizer="adafactor")}, "optimizer adafactor"),
        ({"loading": Loading(quantize="int8")}, "quantize int8"),
        ({"precision": "fp16"}, "precision fp16"),
        ({"adapters": Adapters(train_text_encoder=True)}, "train_text_encoder"),
        ({"speed": Haste(compile=True)}, "compile"),
        ({"speed": Haste(channels_last=True)}, "channels_last"),
        ({"sharding": Sharding(shard="offload")}, "adapters have no frozen copies"),
        ({"sharding": Sharding(shard="offload"), "full": True, "method": SFT()}, "no frozen copy of the network"),
        (
            {"sharding": Sharding(shard="offload"), "full": True, "method": DiffusionDPO(), "reference_decay": 0.9},
            "no frozen copy of the network",
        ),
    ],
)
def test_settings_that_do_not_go_with_shards(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"^shard (full|offload): {named}"):
        replace(RUN, **{"sharding": Sharding(shard="full"), **change})


def test_what_a_run_begins_with_offloads_where_there_is_something_to(tmp_path: Path) -> None:
    """The fits of data-driven DDSPO have no frozen copy, and what comes after them has three."""
    run = replace(RUN, full=True, sharding=Sharding(shard="offload", shard_over=2))
    fits = stages(replace(run, method=DataDrivenDDSPO()), tmp_path)
    assert [stage.run.sharding.shard for stage in fits] == ["full", "full", "offload"]
    assert {stage.run.sharding.shard_over for stage in fits} == {2}
    assert [stage.run.sharding.shard for stage in stages(replace(run, method=RealAlign()), tmp_path)] == ["offload"] * 2


def test_shards_over_some_of_the_processes() -> None:
    assert [Sharding(shard="full", shard_over=4).num_shards(number) for number in (1, 4, 8)] == [1, 4, 4]
    with pytest.raises(UserError, match="shard_over: counts with --shard alone"):
        replace(RUN, sharding=Sharding(shard_over=4))
    with pytest.raises(UserError, match="shard_over 4: 6 processes are no multiple of it"):
        check_sharding(Sharding(shard="full", shard_over=4), 6)


@pytest.mark.parametrize(
    "change",
    [
        {"full": True, "lora_alpha": 2.0},
        {"full": True, "lora_rank": 4},
        {"lora_rank": 0},
        {"cache_limit": 0.0},
        {"full": True, "loading": Loading(quantize="nf4")},
        {"adapters": Adapters(lora_kind=ADAPTER_KINDS["loha"]()), "loading": Loading(quantize="nf4")},
        {"method": TDPO(), "caption_dropout": 0.2},
        {"method": TKTO(), "caption_dropout": 0.2},
    ],
)
def test_settings_that_contradict(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        replace(RUN, **change)
