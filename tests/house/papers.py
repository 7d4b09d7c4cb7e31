"""docs/papers.md: every method, guard and guidance with its paper, settings and deviations, from their own docstrings.

python tests/house/papers.py        # after a docstring or a recipe has changed; a test tells when
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from contrapose.core.guards import GUARDS
from contrapose.core.guidance import GUIDANCES
from contrapose.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "papers.md"

INTRODUCTION = """\
# Papers and methods

What each method computes, where it was published, the settings that its authors released, and where ours differs, all
from the docstrings of the code (`python tests/house/papers.py` writes this page). Our own figures are on the
[front page](../README.md#results), in [realalign.md](realalign.md#results-on-the-shapes-model) and in
[guidance.md](guidance.md#results-on-the-shapes-model); [choosing.md](choosing.md) says when to take which.
`contrapose align METHOD --help` explains every setting.
"""


LEFT_OUT = """\
## Not here

- Reward backpropagation (ReFL in ImageReward, arXiv 2304.05977; IterComp, arXiv 2410.07171; DRaFT, SRPO): a walk to
  one of the last steps, one step with gradient, its data decoded, and a network's score of the image raised. Its loss
  is no function of how well two score functions explain a sample, which is all that the objective knows (T, R, D and
  r): it needs the gradient through the autoencoder and through a judge, where judges here see finished images, may be
  a server or a formula, and have no gradient. It would be a second objective with a second contract of judges, and
  the backward pass of the autoencoder takes gigabytes. What is available instead: the same judge's scores by
  `online-dpo` and the other methods that draw their own samples, which ask no gradient of it, and best-of-n
  (`contrapose sample --best-of 8 --judges ...`).
- PC-Diffusion (arXiv 2511.07806) leads the sampler by the gradient of a classifier of noisy pairs. `guide` mixes
  predictions, by shares that are known before any network is asked and without a gradient; this would take a forward
  and a backward of the classifier at every step, with regard to the state, and a classifier that was trained on noisy
  latents, of which no weights are known to us. Training such judges is another kind of tool. Judges of images choose
  among finished ones: `sample --best-of`.
- Diffusion-RPO (arXiv 2406.06382) compares every winner of a batch with every loser of it, under weights by how
  near their prompts and images lie to each other in CLIP's embeddings. A sum over a batch changes with how the batch
  is cut, which no loss here may. As groups put together beforehand, each sample would have a prompt of its own, where
  a record here has one for all of its samples; and what text encoders of the families give is not one space for
  prompts and images, which only CLIP's two halves make.
- Rethinking-DPO's weights by time (arXiv 2505.18736): neither its paper nor its code was to be read, and what
  others write of it disagrees on whether low or high noise counts too much. Its moving reference is
  `--reference-decay`; `--weighting linear` and `sigmoid` let high noise count more in any method.
- ADT (arXiv 2504.11423) trains a discriminator of few-step samples against real images, with its gradient through
  the sampler: a loop of two networks against each other. Real images win in `realalign`, `diffusion-dro` and `sft`.
- D2-Align (arXiv 2512.24146, first stage) learns by gradient a direction in a reward model's text embedding, and
  then follows that model's gradient through the image. No method here takes a gradient through an image. A judge that
  is corrected so, as a class of yours with `Judge`'s shape, can score and choose.
- GrAInS, lambda-DPO and CW-DPO are methods for language models. Of CW-DPO there is its weight (`--guard cooling`).
  Lambda-DPO sums, with weights lambda that are drawn anew at each step, the losses of one list under several
  preferences, each the cross entropy of its softmax. Here several judges are weighed before a list is ranked
  (`pairs label --by pickscore:2 hpsv2.1`), and lists are learnt by `diffusion-lpo` (Plackett-Luce) or by `rankdpo`
  (pairs of a list by what they are worth), both made for diffusion.
"""


def page() -> str:
    """The page's text."""
    text = "\n".join(
        [INTRODUCTION, "## Training\n", *_methods(), *_guards(), "## Inference\n", *_guidances(), LEFT_OUT]
    )
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _methods() -> Iterator[str]:
    recipes = _recipes()
    for name, method in METHODS.items():
        module = sys.modules[method.__module__]
        source = f"src/{module.__name__.replace('.', '/')}.py"
        yield f"### `{name}`\n\n{inspect.cleandoc(module.__doc__ or '')}\n"
        links = [f"[`{method.__name__}`](../{source})", *recipes.get(name, [])]
        yield f"In this repository: {', '.join(links)}.\n"


def _guards() -> Iterator[str]:
    """What goes around a method's loss: `align METHOD --guard NAME`."""
    for name, guard in GUARDS.items():
        if name != "none":
            yield f"### `--guard {name}`\n\n{inspect.cleandoc(guard.__doc__ or '')}\n"


def _guidances() -> Iterator[str]:
    for name, guidance in GUIDANCES.items():
        yield f"### `{name}`\n\n{inspect.cleandoc(guidance.__doc__ or '')}\n"


def _recipes() -> dict[str, list[str]]:
    """Links to the recipes of each method."""
    links: dict[str, list[str]] = {}
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        method = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("method")
        if method:
            links.setdefault(method["name"], []).append(f"[{recipe.stem}](../recipes/{recipe.name})")
    return links


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
