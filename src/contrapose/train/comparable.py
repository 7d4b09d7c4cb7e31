"""Which groups of a mixture a method can compare, known before a model is loaded.

A like is a winner without a loser, and a dislike a loser without a winner. A method that looks at one side alone takes
the groups that have it; one that looks at both takes no lone sample.
"""

from __future__ import annotations

import logging

import numpy as np

from contrapose.core.group import Composition
from contrapose.errors import UserError
from contrapose.methods import METHODS, name_of
from contrapose.store.mixture import Mixture
from contrapose.store.prompt_list import PromptList
from contrapose.store.record_table import key_of
from contrapose.store.records import GroupRecord
from contrapose.train.settings import Run

log = logging.getLogger(__name__)


def comparable(pairs: Mixture, run: Run) -> Mixture:
    """The groups of a mixture that a run trains on.

    They are the records' groups, or where the method takes samples apart, one a sample. Groups that lack the only
    sample that is looked at are left out, which is told. Raises `UserError` for a group that lacks one of several,
    where none is left, for groups that are all tied where the method goes by what is better, and for those without
    degraded prompts or masks where those are looked at; for prompts alone where the method draws no groups of its own,
    and where it does and nobody judges them.
    """
    composition = run.method.composition()
    if composition.own_groups:
        if not run.judging.rollout_judges:
            raise UserError(
                f"rollout_judges: {name_of(run.method)} has its own samples judged; name a judge, such as pickscore, "
                "or self-confidence, which needs no other network"
            )
        run.judging.check(pairs.prompts)
        return pairs
    alone = next((store for store in pairs.stores if isinstance(store, PromptList)), None)
    if alone is not None:
        raise UserError(
            f"{alone.folder}: is a file of prompts, and {name_of(run.method)} takes pairs; 'contrapose pairs "
            "draw' draws some"
        )
    if composition.as_drawn:
        _check_scored(pairs, run)
        pairs = pairs.as_drawn(len(composition.samples), composition.judge)
    if composition.needs_labels:
        _check_decided(pairs, composition.judge)
    samples = _samples(composition, run.watching.holdout > 0)
    if composition.apart:
        pairs = pairs.apart(composition.apart.like_share)
        num_likes = int((pairs.records.kinds() > 0).sum())
        log.info(f"{pairs}: {num_likes} likes and {len(pairs) - num_likes} dislikes")
    taken = pairs
    # which samples a record has goes by its kind: one record of each tells of all
    _, firsts, kinds = np.unique(pairs.records.kinds(), return_index=True, return_inverse=True)
    lacks_by_kind = [_missing(pairs.records[first], samples) is not None for first in firsts.tolist()]
    lacks = np.array(lacks_by_kind, dtype=bool)[kinds]
    if lacks.any():
        reason = _missing(pairs.records[int(lacks.argmax())], samples)  # of the first one
        # likes and dislikes have one side each, and lack the other without fault; half of a pair is a fault
        if len(samples) > 1:
            raise UserError(f"{pairs}: {reason}; {name_of(run.method)} {_need(composition, samples)}")
        if lacks.all():
            raise UserError(f"{pairs}: {reason}, and no other group has one; take other pairs")
        taken = pairs.only(np.flatnonzero(~lacks))
        log.info(f"{pairs}: {lacks.sum()} of {len(pairs)} groups have no {samples[0]} and are left out")
    if "degraded" in composition.fields and (taken.records.keys("degraded") == key_of("")).any():
        raise UserError(f"{pairs}: these pairs have no degraded prompts; draw pairs, or use diffusion-dpo")
    _check_scored(taken, run)
    num_bare = 0
    if run.mask_floor is not None:
        num_bare = int((~taken.masked()).sum())
    if num_bare:
        raise UserError(
            f"{pairs}: {num_bare} of {len(taken)} pairs have no mask, which mask_floor needs; take pairs of "
            "'contrapose pairs real --spoil inpaint' (older ones: delete pairs.yaml and the shards, and run it again)"
        )
    return taken


def _check_decided(pairs: Mixture, judge: str | None) -> None:
    """Raise `UserError` where of no group anything says which samples are better.

    What says it is the prompt that a loser was drawn of, the judge that the method goes by, or else the labels.
    """
    for record in pairs.records:
        said = record.labels if judge is None else record.scores.get(judge, record.labels)
        if record.degraded or len(said) < 2 or min(said) < max(said):
            return
    raise UserError(
        f"{pairs}: nobody has said yet which of the samples are better; 'contrapose pairs score' and 'pairs label' do, "
        "by judges"
    )


def _check_scored(pairs: Mixture, run: Run) -> None:
    """Raise `UserError` for groups that lack the scores of the judge that the method goes by."""
    judge = run.method.composition().judge
    if judge is None:
        return  # of millions, no record is read for nothing
    num_unscored = sum(judge not in record.scores for record in pairs.records)
    if num_unscored:
        raise UserError(
            f"{pairs}: {num_unscored} of {len(pairs)} pairs have no scores by {judge}, which {name_of(run.method)} "
            "goes by; leave the setting out, or take pairs that have them"
        )


def _samples(composition: Composition, holds_out: bool) -> list[str]:
    """The distinct samples that are taken from records."""
    names = [pick.field for pick in composition.samples.values()]
    if composition.on_policy and holds_out:
        names.append(composition.on_policy.stand_in)
    return list(dict.fromkeys(names))


def _missing(record: GroupRecord, samples: list[str]) -> str | None:
    """Why a record does not have all of these samples; None where it does."""
    for name in samples:
        try:
            record.place(name)
        except ValueError as error:
            return str(error)
    return None


def _need(composition: Composition, samples: list[str]) -> str:
    """What several samples are for, and what to do where a group lacks one."""
    if composition.on_policy:
        return f"measures held-out groups by their {composition.on_policy.stand_in}, so set --holdout 0"
    if composition.as_drawn:
        return (
            f"compares {len(samples)} images of each prompt, so set --samples-per-prompt to what all have, or take "
            "other groups"
        )
    if len(samples) > 2:
        return f"ranks {len(samples)} images of each prompt, so set --num-samples to what all have, or take other pairs"
    takers = [name for name, cls in METHODS.items() if len(_samples(cls().composition(), True)) == 1]
    return (
        f"compares {' and '.join(samples)}, so take {' or '.join(takers)}, or pairs: 'contrapose pairs import' makes "
        "them without --likes single"
    )
