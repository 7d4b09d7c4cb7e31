"""Preference as guidance on any pipeline: its denoiser is wrapped for a while, and nothing of it is copied.

    with contrapose.guide(pipe, positive="runs/win", negative="runs/lose", scale=3.0, interval=(0.2, 0.8)):
        images = pipe("a red cube on a blue sphere").images

Adapters of all policies act in ONE forward of the network, each on its own rows; whole networks are called one after
the other. Schedulers, image-to-image and inpainting, other adapters, offloading and batches work as without guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from contrapose.backbones.adapters import whole_network
from contrapose.backbones.families.table import family_of, source_of
from contrapose.backbones.family import Family
from contrapose.core.guidance import GUIDANCES, Course, Guidance, combine
from contrapose.core.shares import Shares
from contrapose.errors import UserError, one_line
from contrapose.guiding.proxy import with_proxy
from contrapose.guiding.row_adapters import RowAdapters, eagerly, is_compiled
from contrapose.guiding.rows import Call, like, prediction_of, stacked
from contrapose.runs.adapter_files import Adapter
from contrapose.runs.folder import RunFolder


@contextmanager
def guide(
    pipe: DiffusionPipeline,
    positive: str | Path | None = None,
    negative: str | Path | None = None,
    method: str | Guidance | None = None,
    batched: bool = True,
    **settings: Any,
) -> Iterator[DiffusionPipeline]:
    """Guide a pipeline by one or two aligned runs while the block lasts.

    `method` is one of `pgd`, `cpgd`, `npo`, `chats` or a guidance with its settings; the default is cpgd with a
    negative run and pgd without. `settings` are the guidance's fields (scale, schedule, interval, rescale); a schedule
    may also be a function, which gives the scale's factor for a noise level in 0..1. `batched=False` calls the network
    once for each policy, which takes less memory.

    Raises `UserError` on entry for a run of another model, a missing run or settings out of range; and inside the block
    (or when it ends) if npo or chats never met an unconditional prediction. Pipelines with true classifier-free
    guidance make it in a second call, for which they need a `negative_prompt` and a `true_cfg_scale` above 1.
    """
    family = family_of(pipe)
    part = family.denoiser_part
    network = getattr(pipe, part)
    bare = getattr(network, "_orig_mod", network)  # what torch.compile was given
    course = _finite(settings.pop("schedule")) if callable(settings.get("schedule")) else None
    guidance = make_guidance(method or ("cpgd" if negative else "pgd"), **settings)
    folders = {"positive": positive, "negative": negative}
    runs = {name: RunFolder(folder) for name, folder in folders.items() if folder is not None}
    _check(guidance, runs)
    _check_network(pipe, network, bare)
    origin = source_of(pipe)
    networks: dict[str, nn.Module] = {}
    adapted: dict[str, Adapter] = {}
    for name, run in runs.items():
        run.check(part, origin)
        if run.has_adapters:
            adapted[name] = run.adapter(part, bare, type(pipe)).cast(bare.dtype)
        else:
            networks[name] = whole_network(run, part, bare).eval()
    adapters = RowAdapters(adapted)
    # compiled code would not notice the adapters' hooks
    running = eagerly if is_compiled(network) else nullcontext
    policies = _Policies(network.forward, adapters, networks, batched, running)
    guided = _Guided(pipe, family, guidance, course, policies)
    with adapters.on(bare), _replaced(network, guided):
        yield pipe
    guided.check_partner()


def _finite(course: Course) -> Course:
    """A user's function of the noise level, which raises `UserError` where it gives no number."""

    def checked_course(level: float) -> float:
        factor = course(level)
        if not math.isfinite(factor):
            raise UserError(f"schedule: the function gives {factor} at noise level {level:g}; a number is wanted")
        return factor

    return checked_course


def make_guidance(method: str | Guidance, **settings: Any) -> Guidance:
    """A guidance by its name and settings, or the guidance itself; `UserError` for settings that it does not take."""
    if isinstance(method, Guidance):
        if settings:
            raise UserError(f"{', '.join(settings)}: a guidance was given with settings of its own; leave these out")
        return method
    if method not in GUIDANCES:
        raise UserError(f"guidance {method}: not known (choose from {', '.join(GUIDANCES)})")
    try:
        return GUIDANCES[method](**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"guidance {method}: {one_line(error)}") from error


def _check(guidance: Guidance, runs: Mapping[str, RunFolder]) -> None:
    """Raise `UserError` for a run that the guidance needs and lacks, or would not use."""
    name = next((name for name, cls in GUIDANCES.items() if type(guidance) is cls), type(guidance).__name__)
    wanted = "negative" if guidance.needs_negative else "positive"
    if wanted not in runs:
        raise UserError(f"guidance {name} needs a {wanted} run")
    if "positive" not in runs and not guidance.by_row:
        raise UserError(f"guidance {name} needs a positive run beside the negative one")
    if "negative" in runs and not guidance.needs_negative:
        raise UserError(f"guidance {name} takes no negative run; leave it out, or use cpgd")


def _check_network(pipe: DiffusionPipeline, network: nn.Module, bare: nn.Module) -> None:
    """Raise `UserError` for a network that is guided already, or whose layers the adapters' hooks would miss."""
    if isinstance(network.__dict__.get("forward"), _Guided):
        raise UserError(f"this {type(pipe).__name__} is being guided already; leave the other block first")
    if any(getattr(part, "fused_projections", False) for part in bare.modules()):
        raise UserError("guidance does not reach fused projections; call unfuse_qkv_projections() first")


@contextmanager
def _replaced(network: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The network with another forward; its own one comes back at the end, be it its class's or one set on it."""
    # offloading and compilation set a forward on the network itself
    before = network.__dict__.get("forward")
    compiled = network._compiled_call_impl
    network.forward = forward
    network._compiled_call_impl = None  # it would be called in place of any forward
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        if before is None:
            del network.__dict__["forward"]
        else:
            network.forward = before


class _Policies:
    """The base, adapters on it and whole networks, each of which predicts rows of one call."""

    def __init__(
        self,
        forward: Callable[..., Any],
        adapters: RowAdapters,
        networks: Mapping[str, nn.Module],
        batched: bool,
        running: Callable[[], AbstractContextManager[Any]],
    ):
        self.forward = forward
        self.adapters = adapters
        self.networks = networks
        self.batched = batched
        self.running = running

    def __contains__(self, policy: str) -> bool:
        return policy == "base" or policy in self.adapters or policy in self.networks

    def ask(self, call: Call, units: Sequence[tuple[str, slice]]) -> tuple[list[Tensor], Any]:
        """The prediction of each (policy, rows), and one answer in the form in which the network gave it.

        The pipeline's network predicts for the base and all adapters: in one forward if batched, else in one for each.
        """
        # by their index: two policies may be asked about the same rows
        on_network = [index for index, (policy, _) in enumerate(units) if policy not in self.networks]
        groups = [[index] for index in on_network]
        if self.batched and on_network:
            groups = [on_network]
        predictions: dict[int, Tensor] = {}
        answer: Any = None
        for group in groups:
            # where each unit's rows lie in the batch of this forward
            places: dict[int, slice] = {}
            end = 0
            for index in group:
                rows = units[index][1]
                places[index] = slice(end, end + rows.stop - rows.start)
                end = places[index].stop
            inputs, named = call.of([units[index][1] for index in group])
            acting = [(units[index][0], place) for index, place in places.items()]
            with self.running(), self.adapters.acting(acting):
                answer = self.forward(*inputs, **named)
            predicted = stacked(prediction_of(answer))
            for index, place in places.items():
                predictions[index] = predicted[place]
        for index, (policy, rows) in enumerate(units):
            if policy in self.networks:
                inputs, named = call.of([rows])
                # the base may be offloaded between calls, so its device is known at the call alone
                answer = self.networks[policy].to(call.device)(*inputs, **named)
                predictions[index] = stacked(prediction_of(answer))
        return [predictions[index] for index in range(len(units))], answer


class _Guided:
    """A denoiser's forward that returns a combination of several policies' predictions."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        guidance: Guidance,
        course: Course | None,
        policies: _Policies,
    ):
        self.pipe = pipe
        self.family = family
        self.guidance = guidance
        self.course = course
        self.policies = policies
        self.config = getattr(pipe, family.denoiser_part).config
        self.prompted: Call | None = None  # the last call with a prompt, where one without it is to follow

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        call = Call(inputs, named, self.family.rowless)
        level = self.family.level_of(call.time, self.config)
        if not self.guidance.strength(level, self.course):
            # outside the interval: the stock call itself, so that the base comes back to the bit
            return self.policies.forward(*inputs, **named)
        parts = self._parts(call)
        shares: dict[str, Shares[str]] = {}
        for part in parts:
            shares[part] = self._of_policies(self.guidance.shares(level, part != "unconditional", self.course))
        proxy = self.guidance.proxy_strength
        if proxy is not None and "unconditional" in parts:
            # the prompts are in the other half of this call, or in the call before it
            prompted = parts.get("conditional", slice(0, call.rows))
            source = call if "conditional" in parts else self.prompted
            assert source is not None
            call = with_proxy(call, parts["unconditional"], source, prompted, proxy)
        if "unconditional" in parts:
            self.prompted = None
        units = [(policy, part) for part in parts for policy in shares[part]]
        answers, answer = self.policies.ask(call, [(policy, parts[part]) for policy, part in units])
        predictions: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
        for (policy, part), prediction in zip(units, answers, strict=True):
            predictions[part][policy] = prediction
        # back into the order of the batch, in which either half may be the first
        ordered = sorted(parts, key=lambda part: parts[part].start)
        return like(answer, [combine(predictions[part], shares[part], self.guidance.rescale) for part in ordered])

    def _parts(self, call: Call) -> dict[str, slice]:
        """The rows of each kind that the guidance tells apart: all rows, or those with and those without a prompt."""
        rows = call.rows
        if not self.guidance.by_row:
            return {"all": slice(0, rows)}
        if self.family.unconditional_rows in ("own", "none"):
            return {self._half(call): slice(0, rows)}
        halves = (slice(0, rows // 2), slice(rows // 2, rows))
        if not getattr(self.pipe, "do_classifier_free_guidance", True) or not call.alike(*halves):
            raise UserError("this guidance works on rows with and without a prompt: set the guidance scale above 1")
        first, last = halves
        if self.family.unconditional_rows == "first":
            return {"unconditional": first, "conditional": last}
        return {"conditional": first, "unconditional": last}

    def _half(self, call: Call) -> str:
        """Which of a step's two calls this is: with the prompt, or after it without, on the same latents."""
        # the very tensor: latents of the next step are another one, though they may be equal
        if self.prompted is not None and call.sample is self.prompted.sample:
            return "unconditional"
        self.check_partner()
        self.prompted = call
        return "conditional"

    def check_partner(self) -> None:
        """Raise `UserError` if the last call with a prompt was not followed by one without it."""
        if self.prompted is not None:
            raise UserError(
                "this guidance works on calls with and without a prompt: set the guidance scale above 1, or, where it "
                "makes no second call by itself, pass the pipeline a negative_prompt and a true_cfg_scale above 1"
            )

    def _of_policies(self, shares: Shares[str]) -> Shares[str]:
        """The shares by policies that are loaded: without a positive run, the base takes the positive run's share."""
        loaded: dict[str, float] = {}
        for policy, share in shares.items():
            name = policy if policy in self.policies else "base"
            loaded[name] = loaded.get(name, 0.0) + share
        return loaded
