"""For every test: one thread a worker, array shapes checked in `core`, and what cannot run here is skipped.

Nothing here imports diffusers before a fixture needs it: the tests of the theory start in a second.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import pkgutil
import shutil
import sys
import tempfile
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network
CACHE = tempfile.mkdtemp(prefix="contrapose-tests-")
os.environ["CONTRAPOSE_CACHE"] = CACHE  # not the user's own
os.environ["RAY_AUTH_MODE"] = "disabled"  # before ray is imported, which would write to the user's home

os.fsync = lambda handle: None  # no test cuts the power, and disks take their time

# Tests make many objects that live as long as they do: looked through at every 700th, they cost a tenth of the time.
gc.set_threshold(50_000, 20, 100)

if importlib.util.find_spec("beartype"):
    # Before anything imports contrapose: shapes in annotations are checked under pytest, and cost its users nothing.
    from jaxtyping import install_import_hook

    install_import_hook("contrapose.core", "beartype.beartype")
    import beartype  # noqa: F401

    import contrapose.core
    import contrapose.ranges

    # core names torch's types for type checkers alone, so that settings load without it; the checker of shapes is one
    typing.TYPE_CHECKING = True
    for module in pkgutil.iter_modules(contrapose.core.__path__, "contrapose.core."):
        importlib.import_module(module.name)
    typing.TYPE_CHECKING = False

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers times threads would be more than the cores

MANY_MODULES = 50  # so many that a test has imported are worth to be kept before the next test of its file
FEW_OBJECTS = 20_000  # so many that a file has left are walked sooner than kept
KEPT_MODULES = pytest.StashKey[int]()

WEIGHTS = "CONTRAPOSE_WEIGHTS"  # a folder of published weights


def pytest_configure() -> None:
    """Transformers tells once a class that torchvision is absent; no test needs it."""
    log = logging.getLogger("transformers.utils.import_utils")
    log.addFilter(lambda record: "requires torchvision" not in record.getMessage())


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _put_slow_files_first(items)
    weights = os.environ.get(WEIGHTS)
    missing = {
        "exhaustive": None if "exhaustive" in config.option.markexpr else "takes minutes; asked for by -m exhaustive",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "weights": None if weights and Path(weights).is_dir() else f"{WEIGHTS} names no folder of weights",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _put_slow_files_first(items: list[pytest.Item]) -> None:
    """Workers take file by file in this order, and a slow one at the end would leave the others idle.

    Files with the most slow tests come first, then those with the most tests; the tests of each stay as they are.
    """
    num_slow: Counter[Path] = Counter()
    num_tests: Counter[Path] = Counter()
    for item in items:
        num_tests[item.path] += 1
        num_slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (-num_slow[item.path], -num_tests[item.path], str(item.path)))


def pytest_collection_finish(session: pytest.Session) -> None:
    _keep_all(session.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    num_imported = len(sys.modules) - item.config.stash[KEPT_MODULES]
    ends_file = nextitem is None or nextitem.path != item.path
    if (ends_file and _has_many_objects()) or num_imported >= MANY_MODULES:
        _keep_all(item.config)


def _has_many_objects() -> bool:
    """Whether more than a few objects are left of those that were made since the last collection."""
    newest, *collections = gc.get_count()
    return any(collections) or newest > FEW_OBJECTS


def _keep_all(config: pytest.Config) -> None:
    """What is alive between two files, or after many imports, lives to the end: collections need not walk it.

    Every run asks for collections. Without this a worker spends a third of its time on walking the libraries that
    earlier files have imported.
    """
    gc.collect()
    gc.freeze()
    config.stash[KEPT_MODULES] = len(sys.modules)


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one family's tiny random pipeline, by its name in `families`."""
    import tiny

    folder = tmp_path_factory.mktemp("families")
    return lambda name: folder / name if (folder / name).exists() else tiny.save(name, folder / name)


@pytest.fixture(scope="session")
def smallest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random StableDiffusionPipeline: latents [4, 8, 8], images 16x16, the shapes world's words."""
    import tiny_pipelines

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "sd"
    tiny_pipelines.build_smallest().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(smallest_model: Path) -> Path:
    """The model of most tests; rooms that name a UNet's layers have a larger one by this name."""
    return smallest_model


@pytest.fixture(scope="session")
def tiny_v_model(tiny_family: Callable[[str], Path]) -> Path:
    """The same with v-prediction and weights of its own."""
    return tiny_family("sd-v")


@pytest.fixture(scope="session")
def wider_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose UNet is wider, so that nothing trained on `tiny_model` fits it."""
    import tiny_pipelines

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("tiny") / "wider"
    tiny_pipelines.build_sd(widths=(16, 48)).save_pretrained(folder)
    return folder


PROMPTS = (
    "a red circle above a blue square", "two green triangles", "a white star", "three red squares",
    "a blue circle left of a red star", "a green square", "one red circle and one blue star", "two yellow stars",
    "a purple triangle right of a green circle", "four white circles", "a yellow square below a red triangle",
    "three blue triangles",
)  # fmt: skip


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen prompts of two or more words, one a line."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, prompts_file: Path) -> Path:
    """Folder of a dozen pairs that `tiny_model` drew; copy it before changing it."""
    import drawing

    return drawing.draw_few(tiny_model, prompts_file, tmp_path_factory.mktemp("pairs") / "tiny")


@pytest.fixture
def one_precision_a_process() -> Iterator[None]:
    """Lets a test train in a precision of its own: accelerate takes the first one of a process for all."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="module")
def few_levels() -> Iterator[None]:
    """Held-out pairs are measured at one noise level, as all five take longer than the training of a few steps."""
    from contrapose.train import diagnostics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "LEVELS", (0.5,))
        yield


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Plots are empty, which take most of the time of a page; tests/report draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrapose.report.drawing.FigureCanvasSVG.print_svg", lambda _, file, **__: file.write("<svg>"))
        yield


@pytest.fixture(scope="module")
def parsers_once() -> Iterator[None]:
    """Flags that are the same in all respects are read by one parser, whose making takes nearly all of a line's time.

    A command makes one a process, and some files read hundreds of lines.
    """
    import tyro

    from contrapose.cli import boxes
    from contrapose.cli.leaf import Leaf

    of_flags: dict[str, tuple[list[Leaf], type]] = {}
    of_boxes: dict[Any, type] = {}
    parsers: dict[Any, Any] = {}
    box, make_dataclass = boxes.box, boxes.make_dataclass
    specification = tyro._parsers.ParserSpecification
    build = specification.from_callable_or_type

    def box_once(flags: Iterable[Leaf]) -> type:
        # What is named by its address alone is kept beside, so that nothing else gets the address
        leaves = list(flags)
        key = repr(leaves)
        if key not in of_flags:
            of_flags[key] = (leaves, box(leaves))
        return of_flags[key][1]

    def view_once(name: str, fields: list[Any], **more: Any) -> type:
        if more:
            return make_dataclass(name, fields, **more)
        key = tuple(hint for _, hint, _ in fields)
        if key not in of_boxes:
            of_boxes[key] = make_dataclass(name, fields)
        return of_boxes[key]

    def build_once(f: Any, **more: Any) -> Any:
        if more["intern_prefix"]:
            return build(f, **more)
        key = (f, more["description"])
        if key not in parsers:
            parsers[key] = build(f, **more)
        return parsers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "box", box_once)
        patch.setattr(boxes, "make_dataclass", view_once)
        patch.setattr(specification, "from_callable_or_type", staticmethod(build_once))
        yield


@pytest.fixture
def write_store() -> Callable[..., Path]:
    """Write records and latents, [k, n, ...] or those of winners and losers, as a folder of groups without a model."""

    def write(
        folder: Path,
        records: Sequence[Any],
        latents: torch.Tensor | dict[str, torch.Tensor],
        shard_size: int = 4,
    ) -> Path:
        import yaml

        from contrapose.store.manifest import MANIFEST
        from contrapose.store.shard_files import write_shard

        if not isinstance(latents, torch.Tensor):
            latents = torch.stack([latents["winner"], latents["loser"]], 1)

        for index, first in enumerate(range(0, len(records), shard_size)):
            rows = slice(first, first + shard_size)
            write_shard(folder, index, records[rows], latents[rows])
        (folder / MANIFEST).write_text(yaml.safe_dump({"num_groups": len(records)}))
        return folder

    return write
