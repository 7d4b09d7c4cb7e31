"""Preference as guidance on any pipeline: its denoiser is wrapped for a while, and nothing of it is copied.

    with contrapose.guide(pipe, positive="runs/win", negative="runs/lose", scale=3.0, interval=(0.2, 0.8)):
        images = pipe("a red cube on a blue sphere").images

Adapters of all policies act in ONE forward of the network, each on its own rows; whole networks are asked one after
the other. Schedulers, image-to-image and inpainting, other adapters, offloading and batches stay the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from contrapose.backbones.adapters import whole_network
from contrapose.backbones.families.table import family_of, source_of
from contrapose.backbones.family import Family
from contrapose.core.guidance import GUIDANCES, CHATSGuidance, Course, Guidance, combine
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

    `method` is one of `pgd`, `cpgd`, `npo`, `chats` or a guidance with its settings; where it is left out, cpgd with a
    negative and pgd without. `settings` are the guidance's own (scale, schedule, interval, rescale); a schedule may be
    a function too, which gives the scale's factor for a noise level in 0..1. `batched=False` asks the policies one
    after the other, which takes less memory. Raises `UserError` before anything is asked, for a run of another model, a
    missing policy, and settings out of range; and in the block, or at its end, where npo or chats finds no rows without
    a prompt. FLUX's pipelines predict those in a second call, given a `negative_prompt` and a `true_cfg_scale` above 1.
    """
    family = family_of(pipe)
    part = family.denoiser_part
    network = getattr(pipe, part)
    bare = getattr(network, "_orig_mod", network)  # what torch.compile was given
    course = settings.pop("schedule") if callable(settings.get("schedule")) else None
    guidance = make_guidance(method or ("cpgd" if negative else "pgd"), **settings)
    runs = {name: RunFolder(run) for name, run in (("positive", positive), ("negative", negative)) if run is not None}
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
    policies = _Policies(network.forward, adapters, networks, batched, eagerly if is_compiled(network) else nullcontext)
    guided = _Guided(pipe, family, guidance, course, policies)
    with adapters.on(bare), _replaced(network, guided):
        yield pipe
    guided.check_partner()


def make_guidance(method: str | Guidance, **settings: Any) -> Guidance:
    """A guidance by name with its settings, or the one that is given; `UserError` for what it does not take."""
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
    name = next((name for name, cls in GUIDANCES.items() if type(guidance) is cls), type(guidance).__name__)
    wanted = "negative" if guidance.needs_negative else "positive"
    if wanted not in runs:
        raise UserError(f"guidance {name} needs a {wanted} run")
    if "positive" not in runs and not guidance.by_row:
        raise UserError(f"guidance {name} needs a positive run beside the negative one")
    if "negative" in runs and not guidance.needs_negative:
        raise UserError(f"guidance {name} takes no negative run; leave it out, or use cpgd")


def _check_network(pipe: DiffusionPipeline, network: nn.Module, bare: nn.Module) -> None:
    if isinstance(network.__dict__.get("forward"), _Guided):
        raise UserError(f"this {type(pipe).__name__} is being guided already; leave the other block first")
    if any(getattr(part, "fused_projections", False) for part in bare.modules()):
        raise UserError("guidance does not reach fused projections; call unfuse_qkv_projections() first")


@contextmanager
def _replaced(network: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The network with another forward; what was there (offloading and compilation put theirs) comes back."""
    there, compiled = network.__dict__.get("forward"), network._compiled_call_impl
    network.forward, network._compiled_call_impl = forward, None  # which would not look at the forward
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        if there is None:
            del network.__dict__["forward"]
        else:
            network.forward = there


class _Policies:
    """The base, adapters on it and whole networks, each asked about rows of one call."""

    def __init__(
        self,
        forward: Callable[..., Any],
        adapters: RowAdapters,
        networks: Mapping[str, nn.Module],
        batched: bool,
        hooked: Callable[[], AbstractContextManager[Any]],
    ):
        self.forward, self.adapters, self.networks, self.batched = forward, adapters, networks, batched
        self.hooked = hooked

    def __contains__(self, policy: str) -> bool:
        return policy == "base" or policy in self.adapters or policy in self.networks

    def ask(self, call: Call, units: Sequence[tuple[str, slice]]) -> tuple[list[Tensor], Any]:
        """Each (policy, rows)' prediction, and one answer as the network gave it.

        What the pipeline's own network predicts is one forward when batched, one a policy when not.
        """
        own = [index for index, (policy, _) in enumerate(units) if policy not in self.networks]
        found: dict[int, Tensor] = {}
        answer: Any = None
        for group in [own] if self.batched and own else [[index] for index in own]:
            sizes = [units[index][1].stop - units[index][1].start for index in group]
            rows = [slice(sum(sizes[:n]), sum(sizes[: n + 1])) for n in range(len(sizes))]
            inputs, named = call.of([units[index][1] for index in group])
            acting = [(units[index][0], some) for index, some in zip(group, rows, strict=True)]
            with self.hooked(), self.adapters.acting(acting):
                answer = self.forward(*inputs, **named)
            predicted = stacked(prediction_of(answer))
            found |= {index: predicted[some] for index, some in zip(group, rows, strict=True)}
        for index, (policy, some) in enumerate(units):
            if policy in self.networks:
                inputs, named = call.of([some])
                answer = self.networks[policy].to(call.device)(*inputs, **named)
                found[index] = stacked(prediction_of(answer))
        return [found[index] for index in range(len(units))], answer


class _Guided:
    """A denoiser's forward that asks several policies and gives back their combination."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        guidance: Guidance,
        course: Course | None,
        policies: _Policies,
    ):
        self.pipe, self.family, self.guidance, self.course, self.policies = pipe, family, guidance, course, policies
        self.config = getattr(pipe, family.denoiser_part).config
        self.prompted: Call | None = None  # the last call with a prompt, where one without it is to follow

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        call = Call(inputs, named, self.family.rowless)
        level = self.family.level_of(call.time, self.config)
        if not self.guidance.strength(level, self.course):
            return self.policies.forward(*inputs, **named)
        parts = self._parts(call)
        shares = {
            part: self._known(self.guidance.shares(level, part != "unconditional", self.course)) for part in parts
        }
        if isinstance(self.guidance, CHATSGuidance) and "unconditional" in parts:
            given = parts.get("conditional", slice(0, call.rows))
            source = call if "conditional" in parts else self.prompted
            assert source is not None
            call = with_proxy(call, parts["unconditional"], source, given, self.guidance.proxy)
        if "unconditional" in parts:
            self.prompted = None
        units = [(policy, part) for part in parts for policy in shares[part]]
        answers, answer = self.policies.ask(call, [(policy, parts[part]) for policy, part in units])
        found = dict(zip(units, answers, strict=True))
        mixed = {
            part: combine({p: found[p, part] for p in shares[part]}, shares[part], self.guidance.rescale)
            for part in parts
        }
        return like(answer, [mixed[part] for part in sorted(parts, key=lambda part: parts[part].start)])

    def _parts(self, call: Call) -> dict[str, slice]:
        """Rows that are predicted differently: all alike, or those with and those without a prompt."""
        rows = call.rows
        if not self.guidance.by_row:
            return {"all": slice(0, rows)}
        if self.family.unconditional_rows == "none":
            return {self._half(call): slice(0, rows)}
        halves = (slice(0, rows // 2), slice(rows // 2, rows))
        if not getattr(self.pipe, "do_classifier_free_guidance", True) or not call.alike(*halves):
            raise UserError("this guidance works on rows with and without a prompt: set the guidance scale above 1")
        order = ("unconditional", "conditional")
        return dict(zip(order if self.family.unconditional_rows == "first" else order[::-1], halves, strict=True))

    def _half(self, call: Call) -> str:
        """Which of a step's two calls on the same latents this is; stock pipelines make that with a prompt first."""
        if self.prompted is not None and call.sample is self.prompted.sample:
            return "unconditional"
        self.check_partner()
        self.prompted = call
        return "conditional"

    def check_partner(self) -> None:
        """Raise `UserError` when a call with a prompt was not followed by the one without it."""
        if self.prompted is not None:
            raise UserError(
                "this guidance works on calls with and without a prompt: pass the pipeline a negative_prompt and a "
                "true_cfg_scale above 1"
            )

    def _known(self, shares: Shares[str]) -> Shares[str]:
        """Without a positive run the base is the positive policy."""
        known: dict[str, float] = {}
        for policy, share in shares.items():
            name = policy if policy in self.policies else "base"
            known[name] = known.get(name, 0.0) + share
        return known
