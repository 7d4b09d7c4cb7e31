"""What a study compares with the base: its methods, the base under guidance of their runs, and sampled otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from contrapose.core.guidance import Strength
from contrapose.errors import UserError
from contrapose.ranges import checked
from contrapose.studies.flags import OF_ALIGN, OF_SAMPLE, Flags


@dataclass(frozen=True)
@checked
class StudyMethod:
    """One method, trained once with each seed."""

    align: str
    """What `contrapose align` is given first: a method's name, or a file of a run such as a recipe."""
    options: Flags = field(default_factory=Flags)
    """Its options, over those of `training`."""
    pairs: tuple[str, ...] = ()
    """Names of the pairs that it is trained on; when empty, all of the study's that no others are made of."""
    prompts: str = ""
    """Instead of pairs: the list of prompts of which a method that trains on its own samples draws them."""
    start: str | None = None
    """The method whose run of the same seed it starts from."""
    policies: tuple[str, ...] = ()
    """Of data-driven DDSPO: the two methods whose runs are fits to winners and to losers."""
    tries: Flags | None = None
    """What is tried of it in place of the `tries` under `choosing`, such as where it has not their options; nothing
    when empty."""
    shown: bool = True
    """Whether its images are drawn and judged; a run that others start from need not be."""

    def __post_init__(self) -> None:
        self.options.check_free("options", OF_ALIGN)
        if len(self.policies) not in (0, 2):
            raise UserError("policies: name two methods, that of the winners and that of the losers")
        for name in self.tries.values if self.tries else ():
            if name in self.options.values:
                raise UserError(f"tries: {name}: its options set it; leave it out here or there")
        if self.tries is not None and self.tries.values and not self.shown:
            raise UserError("tries: it is not shown, so that nothing is tried; leave them out")
        if self.prompts and self.pairs:
            raise UserError("prompts: a method is trained on pairs or on prompts; leave one of the two out")

    @property
    def needs(self) -> tuple[str, ...]:
        """Methods that are trained before it."""
        return (*(() if self.start is None else (self.start,)), *self.policies)


@dataclass(frozen=True)
@checked
class Guided:
    """The base, guided at inference by trained runs, at one or more strengths; each strength is a model of its own.

    Of a method that trains several policies, such as chats, METHOD/POLICY names one.
    """

    positive: str | None = None
    """The method whose run guides the sampler towards what it predicts."""
    negative: str | None = None
    """The method whose run guides it away."""
    strengths: tuple[Strength, ...] = ()
    """Strengths w; without any it is one model, at the guidance's own strength."""
    options: Flags = field(default_factory=Flags)
    """Further options of `contrapose sample`, over those of `sampling`."""

    def __post_init__(self) -> None:
        self.options.check_free("options", OF_SAMPLE)
        if not self.runs:
            raise UserError("positive: nothing guides; name a method here or under negative")

    @property
    def runs(self) -> dict[str, str]:
        """What guides, by the flag of `contrapose sample` that names it."""
        named = {"positive": self.positive, "negative": self.negative}
        return {flag: name for flag, name in named.items() if name is not None}


@dataclass(frozen=True)
@checked
class Sampled:
    """The base, sampled in another way, such as the best of eight by a judge: `{best-of: 8, judges: [shapes]}`."""

    options: Flags
    """Options of `contrapose sample`, over those of `sampling`."""

    def __post_init__(self) -> None:
        self.options.check_free("options", OF_SAMPLE)
        if not self.options.values:
            raise UserError("options: without any it is the base; name one at least")
