"""An image depends on its prompt and seed alone; the folder is GenEval's, and is carried on or refused, never mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import aligned
import numpy as np
import pytest
from changing import changed
from PIL import Image
from sampling import few_images

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.core.guidance import PGD, CHATSGuidance, ContrastivePGD, DiffusionNPO
from contrapose.errors import UserError
from contrapose.files import aside_of
from contrapose.guiding.choosing import Chooser, Kept
from contrapose.guiding.images import Sampling, sample_images
from contrapose.store.prompts import Prompt

PROMPTS = ["a red circle", "two blue squares", "a white star above a green triangle"]
NO_PROCESS = 2**22 + 1  # beyond the largest number that Linux gives a process


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Sampling:
    return few_images(tiny_model, tmp_path, PROMPTS)


def _sampled(
    settings: Sampling, backbone: Backbone, out: Path, chooser: Chooser | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """Pixels by prompt and seed, read back from the folder alone."""
    for _ in sample_images(settings, backbone, out, chooser):
        pass
    return {
        (json.loads((path.parents[1] / "metadata.jsonl").read_text())["prompt"], int(path.stem)): np.asarray(
            Image.open(path), dtype=int
        )
        for path in sorted(out.glob("*/samples/*.png"))
    }


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    lines = [{"prompt": text, "tag": f"tag-{i}", "include": [{"class": "猫"}]} for i, text in enumerate(PROMPTS)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = _sampled(changed(settings, prompts=(str(tmp_path / "p.jsonl"),)), backbone, tmp_path / "out")
    assert set(found) == {(prompt, seed) for prompt in PROMPTS for seed in (0, 1)}
    assert all(image.shape == (16, 16, 3) for image in found.values())
    for number, line in enumerate(lines):
        assert json.loads((tmp_path / "out" / f"{number:05d}" / "metadata.jsonl").read_text()) == line


def test_images_differ_by_prompt_and_seed(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    found = list(_sampled(settings, backbone, tmp_path / "out").values())
    assert len({image.tobytes() for image in found}) == len(found)


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_an_image_does_not_depend_on_the_others(
    settings: Sampling, backbone: Backbone, tmp_path: Path, batch_size: int
) -> None:
    (tmp_path / "reversed.txt").write_text("\n".join([*PROMPTS[::-1], "a purple star"]))
    ours = _sampled(settings, backbone, tmp_path / "ours")
    smaller = changed(settings, prompts=(str(tmp_path / "reversed.txt"),), batch_size=batch_size, num_images=3)
    theirs = _sampled(smaller, backbone, tmp_path / "theirs")
    assert len(theirs) == 12
    for job, image in ours.items():
        assert np.abs(theirs[job] - image).max() <= 1


def test_the_stock_pipeline_samples_the_same(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from contrapose.seeds import generator, starting_noise

    found = _sampled(settings, backbone, tmp_path / "out")
    stock = StableDiffusionPipeline.from_pretrained(settings.model, safety_checker=None)
    for (prompt, seed), image in found.items():
        noise = starting_noise([generator(prompt, seed)], backbone.images.latent_shape)
        expected = stock(prompt, latents=noise, num_inference_steps=2, guidance_scale=7.5).images[0]
        assert np.abs(image - np.asarray(expected, dtype=int)).max() <= 1


@pytest.mark.parametrize("after", [0, 1])
def test_killed_and_resumed_is_uninterrupted(
    settings: Sampling, backbone: Backbone, tmp_path: Path, after: int
) -> None:
    _sampled(settings, backbone, tmp_path / "whole")
    cut = sample_images(settings, backbone, tmp_path / "cut")
    for _ in range(after + 1):
        next(cut)
    cut.close()
    (tmp_path / "cut/00000/samples/0001.png").unlink()
    aside_of(tmp_path / "cut/00000/samples/0001.png", NO_PROCESS).write_bytes(b"cut short")
    _sampled(settings, backbone, tmp_path / "cut")
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")


def test_a_finished_folder_is_left_alone(
    settings: Sampling, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sampled(settings, backbone, tmp_path / "out")
    monkeypatch.setattr("contrapose.guiding.images._sample_chunk", None)
    assert list(sample_images(settings, backbone, tmp_path / "out")) == [4, 6]


class Brightest:
    """Keeps the image of the highest mean, and says so of each."""

    version = "1"

    def sign(self, out: Path) -> None:
        (out / "judges.yaml").write_text("brightness")

    def __call__(self, candidates: Sequence[Image.Image], prompt: Prompt) -> Kept:
        means = [float(np.asarray(image).mean()) for image in candidates]
        return Kept(means.index(max(means)), {"brightness": means, "length": [len(prompt.text)] * len(means)})


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_best_of_several_is_the_file_that_it_is_by_itself(
    settings: Sampling, backbone: Backbone, tmp_path: Path, batch_size: int
) -> None:
    """Image m of seeds 3 m to 3 m + 2, whatever is drawn together; beside it its seed and what was said of all."""
    best = changed(settings, best_of=3, batch_size=batch_size)
    kept = _sampled(best, backbone, tmp_path / "best", Brightest())
    every = _sampled(changed(settings, num_images=6, batch_size=1), backbone, tmp_path / "every")
    seeds = set()
    for (prompt, number), image in kept.items():
        path = tmp_path / f"best/{PROMPTS.index(prompt):05d}/samples/{number:04d}.json"
        choice = json.loads(path.read_text())
        assert choice["seeds"] == [3 * number, 3 * number + 1, 3 * number + 2]
        means = [every[prompt, seed].mean() for seed in choice["seeds"]]
        assert choice["scores"]["brightness"] == pytest.approx(means, abs=0.5)
        assert choice["seed"] == choice["seeds"][int(np.argmax(choice["scores"]["brightness"]))]
        assert choice["scores"]["length"] == [len(prompt)] * 3
        assert np.abs(image - every[prompt, choice["seed"]]).max() <= 1
        if batch_size == 1:
            alone = tmp_path / f"every/{path.parts[-3]}/samples/{choice['seed']:04d}.png"
            assert path.with_suffix(".png").read_bytes() == alone.read_bytes()
        seeds.add(choice["seed"] % 3)
    assert len(seeds) > 1, "or nothing was chosen"


def test_a_choice_that_was_killed_carries_on(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    """Without an image, and without what was said of it."""
    best = changed(settings, best_of=2, batch_size=2)
    _sampled(best, backbone, tmp_path / "whole", Brightest())
    cut = sample_images(best, backbone, tmp_path / "cut", Brightest())
    assert [next(cut) for _ in range(4)] == [1, 2, 3, 4]
    cut.close()
    (tmp_path / "cut/00000/samples/0001.png").unlink()
    (tmp_path / "cut/00001/samples/0000.json").write_text("{")
    _sampled(best, backbone, tmp_path / "cut", Brightest())
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")
    another = Brightest()
    another.version = "2"
    with pytest.raises(UserError, match="another content of judges"):
        list(sample_images(best, backbone, tmp_path / "cut", another))
    for unfit, chooser in ((best, None), (settings, Brightest())):
        with pytest.raises(UserError, match="best_of and judges go together"):
            list(sample_images(unfit, backbone, tmp_path / "refused", chooser))
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance_scale": 1.0}, {"num_images": 3}, {"precision": "bf16"}])
def test_changed_settings_are_refused(
    settings: Sampling, backbone: Backbone, tmp_path: Path, change: dict[str, object]
) -> None:
    _sampled(settings, backbone, tmp_path / "out")
    with pytest.raises(UserError, match=next(iter(change))):
        _sampled(changed(settings, **change), backbone, tmp_path / "out")


@pytest.mark.parametrize("lines", [PROMPTS[::-1], PROMPTS[:2]], ids=["another order", "fewer"])
def test_an_edited_prompt_file_is_refused(
    settings: Sampling, backbone: Backbone, tmp_path: Path, lines: list[str]
) -> None:
    """Or old images would stand under new prompts, and be judged by them."""
    _sampled(settings, backbone, tmp_path / "out")
    before = _bytes(tmp_path / "out")
    Path(settings.prompts[0]).write_text("\n".join(lines))
    with pytest.raises(UserError, match="another content of prompts"):
        _sampled(settings, backbone, tmp_path / "out")
    assert _bytes(tmp_path / "out") == before


def test_an_edited_file_of_the_same_prompts_is_refused_before_anything_is_drawn(
    settings: Sampling, backbone: Backbone, tmp_path: Path
) -> None:
    _sampled(settings, backbone, tmp_path / "out")
    Path(settings.prompts[0]).write_text("\n".join(PROMPTS) + "\n\n")
    with pytest.raises(UserError, match="another content of prompts"):
        next(sample_images(settings, backbone, tmp_path / "out"))


def test_the_same_prompts_elsewhere_carry_on(
    settings: Sampling, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sampled(settings, backbone, tmp_path / "out")
    Path(settings.prompts[0]).rename(tmp_path / "moved.txt")
    monkeypatch.chdir(tmp_path)
    assert list(sample_images(changed(settings, prompts=("moved.txt",)), backbone, Path("out"))) == [4, 6]


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
def test_a_model_of_another_content_is_refused(
    settings: Sampling, backbone: Backbone, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(settings.model, tmp_path / "model")
    mine = changed(settings, model=str(copy))
    next(sample_images(mine, backbone, tmp_path / "out"))
    _change_one_byte(copy / name)
    with pytest.raises(UserError, match="another content of model"):
        next(sample_images(mine, backbone, tmp_path / "out"))


def _change_one_byte(path: Path) -> None:
    """The last digit of a text, which stays JSON, or the last byte but one of a tensor."""
    content = bytearray(path.read_bytes())
    place = max(content.rfind(digit) for digit in b"0123456789") if path.suffix == ".json" else -2
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("role", ["adapter", "positive", "negative"])
def test_a_run_that_was_trained_again_is_refused(
    settings: Sampling, backbone: Backbone, runs: tuple[Path, Path], tmp_path: Path, role: str
) -> None:
    mine = tmp_path / "run"
    shutil.copytree(runs[0], mine)
    guidance = ContrastivePGD() if role == "negative" else PGD()
    named = changed(settings, guidance=guidance, **{role: mine})
    if role == "negative":
        named = changed(named, positive=runs[1])
    next(sample_images(named, backbone, tmp_path / "out"))
    shutil.rmtree(mine)
    shutil.copytree(runs[1], mine)
    with pytest.raises(UserError, match=rf"another content of (guiding\.)?{role}"):
        next(sample_images(named, backbone, tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "cut"])
def test_a_broken_image_is_sampled_again(
    settings: Sampling, backbone: Backbone, tmp_path: Path, content: bytes | None
) -> None:
    whole = _sampled(settings, backbone, tmp_path / "out")
    path = tmp_path / "out/00001/samples/0001.png"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    again = _sampled(settings, backbone, tmp_path / "out")
    assert {job: image.tobytes() for job, image in again.items()} == {j: i.tobytes() for j, i in whole.items()}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"{}"])
def test_a_broken_note_of_a_prompt_is_named(
    settings: Sampling, backbone: Backbone, tmp_path: Path, content: bytes
) -> None:
    _sampled(settings, backbone, tmp_path / "out")
    (tmp_path / "out/00001/metadata.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"00001/metadata\.jsonl: "):
        _sampled(settings, backbone, tmp_path / "out")


def test_guidance_off_is_one_call_without_the_negative(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    """A field's mistake: a stray extra UNet call left in the sampling loop."""
    rows: list[int] = []
    hook = backbone.sampler.stock.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    _sampled(changed(settings, guidance_scale=1.0, batch_size=6), backbone, tmp_path / "off")
    _sampled(changed(settings, batch_size=6), backbone, tmp_path / "on")
    hook.remove()
    assert rows == [6, 6, 12, 12]


@pytest.fixture(scope="module")
def runs(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return tuple(aligned.write_run(backbone, "lora", seed, folder / str(seed)) for seed in (0, 1))


def test_guided_by_a_run(settings: Sampling, backbone: Backbone, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """PGD at 1 is the adapter itself, at 0 the model; the backbone is the model's again after it."""
    base = _sampled(settings, backbone, tmp_path / "base")
    guided = _sampled(changed(settings, positive=runs[0]), backbone, tmp_path / "guided")
    adapted = load_backbone(settings.model, adapter=runs[0])
    expected = _sampled(changed(settings, adapter=runs[0]), adapted, tmp_path / "adapted")
    for job, image in guided.items():
        assert np.abs(image - expected[job]).max() <= 1
    assert any(np.abs(image - base[job]).max() > 10 for job, image in guided.items())
    off = changed(settings, positive=runs[0], guidance=PGD(0.0))
    assert {job: i.tobytes() for job, i in _sampled(off, backbone, tmp_path / "off").items()} == {
        job: i.tobytes() for job, i in base.items()
    }


def test_a_guided_folder_is_carried_on(
    settings: Sampling, backbone: Backbone, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    guidance = ContrastivePGD(3.0, "cosine", (0.2, 0.8), 0.5)
    guided = changed(settings, positive=runs[0], negative=runs[1], guidance=guidance)
    _sampled(guided, backbone, tmp_path / "whole")
    cut = sample_images(guided, backbone, tmp_path / "cut")
    next(cut)
    cut.close()
    assert "forward" not in backbone.denoiser.network.__dict__, "a caller that stops gets the pipeline back"
    _sampled(guided, backbone, tmp_path / "cut")
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")
    for change in ({"guidance": replace(guidance, scale=2.0)}, {"positive": runs[1]}, {"guidance": DiffusionNPO()}):
        with pytest.raises(UserError, match=next(iter(change))):
            _sampled(changed(guided, **change), backbone, tmp_path / "cut")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"guidance": PGD(3.0)}, "name one with --positive"),
        ({"negative": 1}, "guidance pgd needs a positive run"),
        ({"negative": 1, "guidance": DiffusionNPO(), "guidance_scale": 1.0}, "--guidance-scale above 1"),
        ({"negative": 1, "guidance": CHATSGuidance(), "guidance_scale": 0.0}, "--guidance-scale above 1"),
    ],
    ids=str,
)
def test_guidance_is_refused_before_the_folder_is_claimed(
    settings: Sampling,
    backbone: Backbone,
    runs: tuple[Path, Path],
    tmp_path: Path,
    change: dict[str, object],
    told: str,
) -> None:
    change = change | ({"negative": runs[1]} if "negative" in change else {})
    with pytest.raises(UserError, match=told):
        _sampled(changed(settings, **change), backbone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
