"""Groups from the store; what the n-th training position sees depends on (seed, n) alone.

Order, partner, time and noise of a position come from its own random stream, so micro-batches, accumulation and process
count change nothing, and resuming needs no more than the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from contrapose.core.compose import OwnState, compose
from contrapose.core.group import Composition, Condition, Group, Pick
from contrapose.core.path import Path
from contrapose.core.reward import element_weights
from contrapose.errors import UserError
from contrapose.seeds import generator, spread_numbers
from contrapose.store.groups import stack
from contrapose.store.mixture import Mixture
from contrapose.store.record_table import Numbers, key_of
from contrapose.store.records import GroupRecord
from contrapose.train.own_groups import DrawnGroups
from contrapose.train.random_prompts import PromptPairs, of_file, of_records
from contrapose.train.replay import KeptState, Replay


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """What a batch of rollouts sees: the prompts of these records, none where blank, and a random stream each."""

    records: list[int]
    blank: list[bool]
    condition: Condition
    shape: tuple[int, ...]
    streams: list[torch.Generator]


class Order:
    """The endless stream of these records, shuffled anew in each epoch; `seed` tells it from others."""

    def __init__(self, store: Mixture, records: Sequence[int] | Numbers, *seed: object):
        self._store = store
        self._records = records
        self._seed = seed
        self._current = (0, self._epoch(0))

    def __call__(self, position: int) -> int:
        """The record at a position."""
        epoch, offset = divmod(position, len(self._current[1]))  # every epoch is as long
        if self._current[0] != epoch:
            self._current = (epoch, self._epoch(epoch))
        return int(self._current[1][offset])

    def _epoch(self, epoch: int) -> Numbers:
        return self._store.epoch(self._records, generator(*self._seed, epoch))


class Groups:
    """Groups by training position, of records that are all `comparable`.

    `swap` reverses the preference: labels (p, 1 - p) become (1 - p, p), and likes become dislikes. Images, truths and
    prompts stay where they are. In Diffusion-DPO that is to exchange the images; in DDSPO the trainee is to explain
    e_ref(x_t^l, t, c-) better than e_ref(x_t^w, t, c), still under the prompt c.

    `caption_dropout` is how often all of a group's slots hold no prompt. With a `replay` buffer, a training position
    takes its record and the policy's sample from the buffer; held-out groups use their stored loser instead. Where a
    policy draws whole groups, positions take those that are `drawn`, and nothing is held out. With a `mask_floor`,
    groups have weights by their records' masks. With `spread_times`, training times follow one another evenly over
    their density. A sum over times, as a gradient is, then varies less (Kingma et al. 2021, appendix I.1, spread those
    of a batch).
    """

    replay: Replay | None = None
    drawn: DrawnGroups | None = None

    def __init__(
        self,
        store: Mixture,
        composition: Composition,
        embeddings: Callable[[Sequence[str | None]], Condition],
        path: Path,
        seed: int,
        holdout: int,
        swap: bool = False,
        caption_dropout: float = 0.0,
        mask_floor: float | None = None,
        spread_times: bool = False,
    ):
        self.store = store
        self.composition = composition
        self.embeddings = embeddings
        self.path = path
        self.seed = seed
        self.swap = swap
        self.caption_dropout = caption_dropout
        self.mask_floor = mask_floor
        self.spread_times = spread_times
        if composition.on_policy:
            self.replay = Replay(composition.on_policy.buffer_size)
        if composition.own_groups:
            self.drawn = DrawnGroups(composition.own_groups.buffer_size, store, seed)
            holdout = 0  # the records have no samples to measure
        self.held_out, self.training = _split(store, seed, min(holdout, len(store) // 5))
        self._pairs_up = any(pick.whose == "other" for pick in composition.picks)
        self._by_size = self._partners_by_size() if self._pairs_up else {}
        self._random_prompts = self._listed_prompts()
        self._own = Order(store, self.training, seed, "epoch")
        self._rolled_out = Order(store, self.training, seed, "rollout epoch")

    def _partners_by_size(self) -> dict[tuple[int, ...], Numbers]:
        """The training records of each size; `UserError` where one, of held-out records too, has not two prompts."""
        keys = self.store.records.keys("prompt")
        trains = np.zeros(len(self.store), dtype=bool)
        trains[self.training] = True
        by_size: dict[tuple[int, ...], Numbers] = {}
        for shape, records in self.store.by_shape().items():
            of_training = records[trains[records]]
            if len(of_training):
                by_size[shape] = of_training
        held_out = {self.store.shape(record) for record in self.held_out}
        lacking = held_out - by_size.keys()
        if lacking or not by_size or any((keys[same] == keys[same[0]]).all() for same in by_size.values()):
            raise UserError(
                f"{self.store}: this kind of loser needs training pairs of at least two prompts of each size, beside "
                "those held out; leave pairs of rarer sizes out, or set another --holdout"
            )
        return by_size

    def _listed_prompts(self) -> PromptPairs | None:
        """What random conditioning draws from; None where each group keeps its prompts."""
        settings = self.composition.random_prompts
        if settings is None:
            return None
        return of_records(self.store, self.training) if settings.file is None else of_file(settings.file, self.store)

    def prompts(self) -> Iterator[str]:
        """Every distinct prompt that a group can hold, as they come; no list of them is kept."""
        fields = sorted({pick.field for pick in self.composition.prompts.values()})
        yield from self.store.records.distinct_texts(fields)
        if self._random_prompts is not None:
            stored = np.concatenate([self.store.records.keys(field) for field in fields])
            further = self._random_prompts.texts()
            is_stored = np.isin([key_of(text) for text in further], stored)
            yield from (text for text, is_there in zip(further, is_stored, strict=True) if not is_there)

    def micro_batches(self, positions: Sequence[int], size: int) -> list[list[int]]:
        """The positions in lists of at most `size` whose latents have one shape, so that they stack."""
        return self._by_shape([(position, self._place(position)[0]) for position in positions], size)

    def held_out_batches(self, size: int) -> list[list[int]]:
        """The held-out records, likewise."""
        return self._by_shape([(record, record) for record in self.held_out], size)

    def prompt_of(self, number: int) -> int:
        """The record that gives the prompt of the rollout of this number."""
        return self._rolled_out(number)

    def rollout_batches(self, numbers: Sequence[int], size: int) -> list[list[int]]:
        """The rollouts of these numbers, likewise."""
        return self._by_shape([(number, self._rolled_out(number)) for number in numbers], size)

    def _by_shape(self, records: Sequence[tuple[int, int]], size: int) -> list[list[int]]:
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, record in records:
            by_shape.setdefault(self.source.shape(record), []).append(number)
        return [same[i : i + size] for same in by_shape.values() for i in range(0, len(same), size)]

    def condition(self, texts: Sequence[str | None], device: torch.device) -> Condition:
        """What a network is told of these prompts, None being none."""
        condition: dict[str, Tensor] = {}
        for name, value in self.embeddings(texts).items():
            condition[name] = send(value, device) if value.is_floating_point() else value
        return condition

    @property
    def source(self) -> Mixture | DrawnGroups:
        """What holds the samples of the groups."""
        return self.drawn or self.store

    def training_batch(self, positions: Sequence[int], device: torch.device) -> Group:
        """The groups at these positions of the endless shuffled stream of training pairs."""
        places = [self._place(position) for position in positions]
        entries = [entry for _, entry in places if entry is not None]
        blank = [self._blank("caption", position) for position in positions]
        streams = [self._stream("position", position) for position in positions]
        return self._compose([record for record, _ in places], streams, blank, device, entries, positions)

    def held_out_batch(self, level: float, device: torch.device, owns: Sequence[int]) -> Group:
        """Held-out pairs at one noise level, always with the same noise."""
        streams = [self._stream("held out", record, level) for record in owns]
        group = self._compose(owns, streams, [False] * len(owns), device, [])
        return replace(group, t=self.path.at_level(level, len(owns)).to(device))

    def rollout_batch(self, numbers: Sequence[int], device: torch.device) -> RolloutBatch:
        """What the rollouts of these numbers, of one shape, see."""
        records = [self._rolled_out(number) for number in numbers]
        blank = [self._blank("rollout caption", number) for number in numbers]
        stored = _Stored(self, records, records, {"prompt": blank}, device)
        condition = stored.condition("prompt", Pick("own", "prompt"))
        streams = [self._stream("rollout", number) for number in numbers]
        return RolloutBatch(records, blank, condition, self.store.shape(records[0]), streams)

    def _place(self, position: int) -> tuple[int, KeptState | None]:
        """The record at a position, of the store or of what was drawn, and its entry of the buffer if there is one."""
        if self.drawn:
            return self.drawn.index_at(position), None
        if self.replay is None:
            return self._own(position), None
        entry = self.replay.draw(self._stream("entry", position))
        return entry.rollout.record, entry

    def _blank(self, purpose: str, number: int) -> bool:
        """Whether no slot holds a prompt."""
        share = self.caption_dropout
        return bool(share) and float(torch.rand((), generator=self._stream(purpose, number))) < share

    def _compose(
        self,
        owns: Sequence[int],
        streams: Sequence[torch.Generator],
        blank: Sequence[bool],
        device: torch.device,
        entries: Sequence[KeptState],
        positions: Sequence[int] = (),
    ) -> Group:
        """One group a stream, whose numbers are drawn in a fixed order: partner, time, noise, dropped prompts, ...

        Groups of training tell their positions. A time is drawn even where times are spread, so that the noise stays.
        Further ones, each sample's own draws and then random prompts, are drawn after these, so that a composition
        which asks for none sees what it saw before.
        """
        partners = [self._partner(record, stream) for record, stream in zip(owns, streams, strict=True)]
        times = torch.cat([self.path.draw_times(1, stream) for stream in streams])
        if self.spread_times and positions:
            times = self.path.times_by(spread_numbers(positions, self.seed, "spread times"))
        shape = self.source.shape(owns[0])
        noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
        if entries:
            blank = [entry.rollout.blank for entry in entries]
        dropped = {slot: self._dropped(slot, streams, blank) for slot in self.composition.prompts}
        steps = self.drawn.steps(owns) if self.drawn else []
        draws: dict[str, Tensor] = {}
        if self.drawn and steps:
            # a step is looked at where it was taken, under the noise that it implies
            times = torch.stack([step.t for step in steps])
            for sample, pick in self.composition.samples.items():
                draws[sample] = send(self.drawn.noises(pick.field, owns)[:, None], device)
        else:
            draws = self._draws(streams, shape, device)
        exchanged = self._exchanged(times, streams) if positions else {}
        stored = _Stored(self, owns, partners, dropped, device, exchanged)
        states = _states(entries, device)
        group = compose(self.composition, stored, send(times, device), send(noise, device), states, draws)
        if steps:
            scales = torch.stack([step.reward_scale for step in steps])
            group = replace(group, reward_scale=send(scales, device))
        return replace(group, weights=stored.weights())

    def _stream(self, *parts: object) -> torch.Generator:
        return generator(self.seed, *parts)

    def _partner(self, record: int, stream: torch.Generator) -> int:
        """A training record of the same shape and another prompt, uniformly; the record itself where none is asked."""
        if not self._pairs_up:
            return record
        same = self._by_size[self.store.shape(record)]
        while True:
            partner = int(same[int(torch.randint(len(same), (), generator=stream))])
            if self.store.records[partner].prompt != self.store.records[record].prompt:
                return partner

    def _draws(
        self, streams: Sequence[torch.Generator], shape: Sequence[int], device: torch.device
    ) -> dict[str, Tensor]:
        """By sample, the normal draws [b, k, ...] of its own that the composition asks for; none where k is 0."""
        num = self.composition.num_own_draws
        draws: dict[str, Tensor] = {}
        for sample in self.composition.samples if num else ():
            of_groups = [torch.randn((num, *shape), generator=stream) for stream in streams]
            draws[sample] = send(torch.stack(of_groups), device)
        return draws

    def _exchanged(self, times: Tensor, streams: Sequence[torch.Generator]) -> dict[int, dict[str, str]]:
        """The random prompts of those groups, by their place, that do not keep their own."""
        settings = self.composition.random_prompts
        if settings is None or self._random_prompts is None:
            return {}
        exchanged: dict[int, dict[str, str]] = {}
        for place, (level, stream) in enumerate(zip(self.path.level(times).tolist(), streams, strict=True)):
            if float(torch.rand((), generator=stream)) < settings.chance(level):
                exchanged[place] = self._random_prompts.draw(stream)
        return exchanged

    def _dropped(self, slot: str, streams: Sequence[torch.Generator], blank: Sequence[bool]) -> list[bool]:
        """Which groups' slot holds no prompt."""
        share = self.composition.dropout.get(slot)
        if share is None:
            return list(blank)
        drawn = [float(torch.rand((), generator=stream)) < share for stream in streams]
        return [of_slot or of_group for of_slot, of_group in zip(drawn, blank, strict=True)]


@dataclass(frozen=True, eq=False)
class _Stored:
    """The fields of `b` stored records and of their partners, as a composition takes them; see `compose.Fields`."""

    groups: Groups
    owns: Sequence[int]
    partners: Sequence[int]
    dropped: Mapping[str, Sequence[bool]]
    """For each slot, which of the groups' prompts are left out."""
    device: torch.device
    exchanged: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """By a group's place, the random prompts that stand in for its records'."""

    def latent(self, pick: Pick) -> Tensor:
        return send(stack(self.groups.source, pick.field, self._chosen(pick)).float(), self.device)

    def label(self, sample: str) -> Tensor:
        records = self._records(self.owns)
        if sample not in ("winner", "loser"):
            labels = torch.tensor([record.labels[record.place(sample)] for record in records])
            return send(1 - labels if self.groups.swap else labels, self.device)
        shares = torch.tensor([record.preference for record in records])
        is_winner = (sample == "winner") != self.groups.swap
        return send(shares if is_winner else 1 - shares, self.device)

    def scores(self, pick: Pick) -> Mapping[str, Tensor]:
        records = self._records(self._chosen(pick))
        # A judge that has not seen all of them says nothing of the batch.
        judges = set(records[0].scores).intersection(*(record.scores for record in records))
        scores: dict[str, Tensor] = {}
        for judge in filter(judges.__contains__, records[0].scores):  # in the first record's order
            values = [record.scores[judge][record.place(pick.field)] for record in records]
            scores[judge] = send(torch.tensor(values), self.device)
        return scores

    def condition(self, slot: str, pick: Pick) -> Condition:
        texts: list[str | None] = []
        records = self._records(self._chosen(pick))
        for place, (record, is_dropped) in enumerate(zip(records, self.dropped[slot], strict=True)):
            of_record = getattr(record, pick.field)
            text = self.exchanged[place][pick.field] if place in self.exchanged else of_record
            texts.append(None if is_dropped else text)
        return self.groups.condition(texts, self.device)

    def weights(self) -> Tensor | None:
        """What each place of the latents counts, [b, 1, h, w]; None where all count alike."""
        floor = self.groups.mask_floor
        if floor is None:
            return None
        masks = torch.stack([self.groups.store.mask(record) for record in self.owns])
        return send(element_weights(masks[:, None], floor), self.device)

    def _records(self, places: Sequence[int]) -> list[GroupRecord]:
        return [self.groups.source.records[place] for place in places]

    def _chosen(self, pick: Pick) -> Sequence[int]:
        return self.owns if pick.whose == "own" else self.partners


def _states(entries: Sequence[KeptState], device: torch.device) -> OwnState | None:
    """The states that these entries of the buffer keep, one a group; None where there is none."""
    if not entries:
        return None
    t = torch.stack([entry.rollout.t[entry.state] for entry in entries])
    x0 = torch.stack([entry.rollout.x0[entry.state] for entry in entries])
    eps = torch.stack([entry.rollout.eps[entry.state] for entry in entries])
    return OwnState(send(t, device), send(x0, device), send(eps, device))


def _split(store: Mixture, seed: int, holdout: int) -> tuple[list[int], Numbers]:
    """Records held out and records to train on: whole prompts, until `holdout` records are out."""
    held_out: list[int] = []
    if holdout:
        by_prompt = store.records.alike("prompt")
        sizes = by_prompt.sizes.tolist()
        order = torch.randperm(len(sizes), generator=generator(seed, "holdout"))
        for number in order.tolist():
            if len(held_out) + sizes[number] <= holdout:
                first = by_prompt.starts[number]
                held_out += by_prompt.order[first : first + sizes[number]].tolist()
    trains = np.ones(len(store), dtype=bool)
    trains[held_out] = False
    return held_out, np.flatnonzero(trains)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for the work that is queued there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
