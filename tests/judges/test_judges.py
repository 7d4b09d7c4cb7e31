"""Judges on tiny random networks, each against its formula written out here; and what is told when weights fail."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from huggingface_hub import constants
from judging import convert
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.judges.aesthetic import Aesthetic
from contrapose.judges.batched import Batched
from contrapose.judges.clip_score import CLIPScore
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Judge, Jury
from contrapose.judges.judge import score as score_of
from contrapose.judges.pick_score import PickScore
from contrapose.judges.pretrained import find
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.judges.vision_language import VisionLanguage
from contrapose.judges.vqa_score import VQAScore
from contrapose.judges.yes_no import YesNo
from contrapose.store.prompts import Prompt

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(40, 40), (90, 33), (17, 64), (32, 32), (200, 130)]
IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate(SIZES)]
LONG = "a red circle above " * 30
PROMPTS = ["a red circle", "two blue stars on a green square", "", "zebra!", LONG]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return tiny_vision.save_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The aesthetic head's file, its authors' tensors for vectors of the tiny CLIP's width."""
    made = torch.Generator().manual_seed(3)
    widths, tensors = (tiny_vision.CLIP_WIDTH, 1024, 128, 64, 16, 1), {}
    for place, columns, rows in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        tensors[f"layers.{place}.weight"] = torch.randn(rows, columns, generator=made) / columns**0.5
        tensors[f"layers.{place}.bias"] = torch.randn(rows, generator=made)
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file(tensors, path)
    return path


def settings(clip, chat, head):
    return [
        Colours(),
        PickScore(str(clip), str(clip)),
        CLIPScore(str(clip)),
        Aesthetic(str(clip), head),
        YesNo(str(chat), precision="fp32"),
        VQAScore(str(chat), precision="fp32"),
    ]


def score(judge: Judge, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    return score_of(judge, images, [Prompt(text) for text in prompts])


def unit_vectors(folder, images, prompts):
    """The two towers' vectors by hand: PIL's resize, one prompt at a time without padding, numpy's norms."""
    network, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    seen, read = [], []
    for image in images:
        side, (width, height) = tiny_vision.CLIP_SIDE, image.size
        small = min(width, height)
        shape = (side * width // small, side * height // small)
        resized = np.asarray(image.convert("RGB").resize(shape, Image.Resampling.BICUBIC))
        left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
        pixels = (resized[top : top + side, left : left + side] / 255 - MEAN) / DEVIATION
        batch = torch.tensor(pixels).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            told = network.vision_model(pixel_values=batch).pooler_output @ network.visual_projection.weight.T
        seen.append(told[0].numpy().astype(np.float64))
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        ids = (
            [*ids[: tiny_vision.TEXT_LENGTH - 1], tokenizer.eos_token_id] if len(ids) > tiny_vision.TEXT_LENGTH else ids
        )
        with torch.no_grad():
            hidden = network.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            read.append((network.text_projection.weight @ hidden).numpy().astype(np.float64))
    return tuple(np.stack([v / np.linalg.norm(v) for v in vectors]) for vectors in (seen, read))


def test_pickscore_is_its_formula(clip):
    seen, read = unit_vectors(clip, IMAGES, PROMPTS)
    scores = score(PickScore(str(clip), str(clip)).load("cpu"), IMAGES, PROMPTS)
    assert scores.dtype == np.float64 and np.ptp(scores) > 1
    assert np.allclose(scores, np.exp(3.0) * (seen * read).sum(1), atol=1e-4)


def test_clipscore_is_its_formula_and_never_negative(clip):
    seen, read = unit_vectors(clip, IMAGES, PROMPTS)
    expected = 100 * (seen * read).sum(1)
    scores = score(CLIPScore(str(clip)).load("cpu"), IMAGES, PROMPTS)
    assert expected.min() < -1 and expected.max() > 1
    assert np.allclose(scores, np.maximum(expected, 0), atol=1e-3)


def test_aesthetic_is_an_affine_map_of_the_image_alone(clip, head):
    seen, _ = unit_vectors(clip, IMAGES, PROMPTS)
    tensors = load_file(head)
    value = seen
    for place in (0, 2, 4, 6, 7):
        value = value @ tensors[f"layers.{place}.weight"].double().numpy().T + tensors[f"layers.{place}.bias"].numpy()
    scorer = Aesthetic(str(clip), head).load("cpu")
    scores = score(scorer, IMAGES, PROMPTS)
    assert np.allclose(scores, value[:, 0], atol=1e-4) and np.ptp(scores) > 0.01
    assert (scores == score(scorer, IMAGES, PROMPTS[::-1])).all()


def test_the_authors_head_is_converted_as_one_is_told(clip, head, tmp_path):
    published = tmp_path / "published.pth"
    torch.save(load_file(head), published)
    with pytest.raises(UserError, match=r"published\.pth: only \.safetensors is read") as refused:
        Aesthetic(str(clip), published).load("cpu")
    python, *arguments = shlex.split(str(refused.value).partition("convert it once: ")[2])
    assert python == "python" and "\n" not in str(refused.value)
    convert(*arguments)
    one, other = (Aesthetic(str(clip), path).load("cpu") for path in (head, published.with_suffix(".safetensors")))
    assert (score(one, IMAGES, PROMPTS) == score(other, IMAGES, PROMPTS)).all() and one.version == other.version


def test_a_score_is_of_its_image_and_prompt_alone(clip, chat, head):
    for one in settings(clip, chat, head):
        scorer = one.load("cpu")
        together = score(scorer, IMAGES, PROMPTS)
        alone = [score(scorer, [image], [prompt])[0] for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
        assert np.allclose(together, alone, atol=1e-5)
        assert np.allclose(together, score(scorer, IMAGES[::-1], PROMPTS[::-1])[::-1], atol=1e-5)
        assert len(set(np.round(alone, 4))) > 2 and score(scorer, [], []).shape == (0,)
        assert scorer.higher_is_better and JUDGES[scorer.name] is type(one)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_images_of_any_mode_and_size(clip, chat, head, mode):
    strange = [tiny_vision.noise_image(9, size).convert(mode) for size in ((1, 1), (3, 50))]
    for one in settings(clip, chat, head):
        scorer = one.load("cpu")
        same = score(scorer, [image.convert("RGB") for image in strange], ["a", "b"])
        assert (score(scorer, strange, ["a", "b"]) == same).all()


def test_a_long_prompt_is_cut_as_published(clip):
    scorer = CLIPScore(str(clip)).load("cpu")
    assert score(scorer, IMAGES[:1], [LONG]) == score(scorer, IMAGES[:1], [LONG + "two yellow stars"])


def test_images_are_prepared_by_pil_everywhere(clip, chat):
    from contrapose.judges.pretrained import load_image_processor

    assert load_image_processor("test", clip).backend == "pil"
    assert VisionLanguage("test", str(chat), "fp32", "cpu").processor.image_processor.backend == "pil"


def test_a_jury_says_what_each_of_its_judges_says(clip, head):
    judges = [judge.load("cpu") for judge in (PickScore(str(clip), str(clip)), Aesthetic(str(clip), head), Colours())]
    jury = Jury(judges)
    prompts = [Prompt(text) for text in PROMPTS]
    marks = jury(IMAGES, prompts)
    assert list(marks) == list(jury.higher_is_better) == ["pickscore", "aesthetic", "colourfulness"]
    for judge in judges:
        assert (marks[judge.name].values == score_of(judge, IMAGES, prompts)).all()
        assert marks[judge.name].reason(0) is None
    assert jury.version not in (Jury(judges[:2]).version, Jury(judges[1:]).version)
    with pytest.raises(UserError, match="two of them give aesthetic"):
        Jury([judges[1], judges[1]])


def test_how_many_images_a_judge_looks_at_together_decides_nothing():
    """Who runs out of memory takes fewer, and goes on with what was judged."""
    usual = {name: kind() for name, kind in JUDGES.items()}
    batched = {name: settings for name, settings in usual.items() if hasattr(settings, "batch_size")}
    assert len(batched) > 8
    for name, settings in batched.items():
        assert "batch_size" in runfile.practical_names(settings), name


def test_the_version_is_of_the_weights(clip, head, tmp_path):
    other, moved = tiny_vision.save_clip(tmp_path / "other", seed=1), shutil.copytree(clip, tmp_path / "moved")
    versions = [CLIPScore(str(folder)).load("cpu").version for folder in (clip, moved, other)]
    assert versions[0] == versions[1] != versions[2]
    assert Aesthetic(str(clip), head).load("cpu").version not in versions
    assert CLIPScore(str(clip), precision="bf16").load("cpu").version not in versions


def test_settings_stand_in_a_run_file(tmp_path):
    @dataclass(frozen=True)
    class Holder:
        scorer: AnyJudge

    conv = runfile.converter((AnyJudge, JUDGES))
    for cls in JUDGES.values():
        (tmp_path / "run.yaml").write_text(runfile.to_yaml(Holder(cls()), conv))
        assert runfile.read(tmp_path / "run.yaml", Holder, conv) == Holder(cls())


def refusal(one, match):
    with pytest.raises(UserError, match=match) as told:
        one.load("cpu")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_absent_weights_are_told_with_what_gets_them(clip, head, empty_hub):
    for name, cls in JUDGES.items():
        names = {field.name for field in fields(cls)}
        if "model" not in names or "address" in names:  # a formula has no weights, and a server has its own
            continue
        if not cls().model:  # what drew the images judges them itself
            continue
        one = replace(cls(), head=head) if cls is Aesthetic else cls()
        refusal(
            one, rf"^{name}: {re.escape(one.model)} is not on this machine; run 'hf download {one.model}[^']*' once"
        )
        refusal(replace(one, model="./no/such/folder"), rf"^{name}: ./no/such/folder: no such model folder")
    refusal(PickScore(model=str(clip)), r"run 'hf download laion/CLIP-ViT-H-14-\S+ --include \"\*.json\"")
    refusal(
        Aesthetic(str(clip), Path("gone.safetensors")),
        r"aesthetic: gone.safetensors: no such file; download https://github\S+.pth and run",
    )


def test_weights_in_the_hubs_cache_are_found(clip, empty_hub):
    stored = empty_hub / "models--someone--tiny-clip"
    shutil.copytree(clip, stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    assert find("test", "someone/tiny-clip").name == "0" * 40
    scores = score(CLIPScore("someone/tiny-clip").load("cpu"), IMAGES, PROMPTS)
    assert (scores == score(CLIPScore(str(clip)).load("cpu"), IMAGES, PROMPTS)).all()


def test_the_preparation_is_read_as_openai_published_it(clip, tmp_path):
    """Their file names a feature extractor and gives sizes as one number."""
    folder, side = shutil.copytree(clip, tmp_path / "published"), tiny_vision.CLIP_SIDE
    steps = {"do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3}
    kind = {"feature_extractor_type": "CLIPFeatureExtractor", "size": side, "crop_size": side}
    told = {**steps, **kind, "image_mean": MEAN, "image_std": DEVIATION}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    scores = score(CLIPScore(str(folder)).load("cpu"), IMAGES, PROMPTS)
    assert (scores == score(CLIPScore(str(clip)).load("cpu"), IMAGES, PROMPTS)).all()


def test_broken_weights_are_told(clip, chat, tmp_path):
    def spoiled(name, change, source=clip):
        folder = shutil.copytree(source, tmp_path / name)
        change(folder)
        return folder

    def cut(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])

    def lose_a_tensor(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["visual_projection.weight"]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def pickle_weights(folder):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def lose_words(folder):
        for path in folder.glob("*tokenizer.json"):
            path.unlink()

    def lose_preparation(folder):
        (folder / "preprocessor_config.json").unlink()

    refusal(CLIPScore(str(spoiled("cut", cut))), r"clipscore: .*cut: cannot be loaded")
    refusal(
        CLIPScore(str(spoiled("lost", lose_a_tensor))),
        r"clipscore: .*lost: a tensor is missing, such as visual_projection.weight",
    )
    refusal(CLIPScore(str(spoiled("pickled", pickle_weights))), r"cannot be loaded .*safetensors")
    refusal(CLIPScore(str(spoiled("mute", lose_words))), r"it has no vocabulary")
    refusal(CLIPScore(str(spoiled("blind", lose_preparation))), r"cannot be loaded")
    refusal(YesNo(str(spoiled("chat", cut, chat))), r"yes-no: .*chat: cannot be loaded")
    refusal(YesNo(str(spoiled("chat-mute", lose_words, chat))), r"it has no vocabulary")


class Trap:
    """Code in a pickle: reading it would leave a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_head_is_never_run_and_must_fit(clip, head, tmp_path):
    torch.save({"layers.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    torch.save({"weight": torch.zeros(1, 768)}, tmp_path / "first-version.pth")
    for name in ("trap", "page", "first-version"):
        refusal(Aesthetic(str(clip), tmp_path / f"{name}.pth"), rf"aesthetic: .*{name}.pth: only .safetensors is read")
    assert not (tmp_path / "sprung").exists()
    wide = {name: torch.zeros(1024, 768) if name == "layers.0.weight" else value
            for name, value in load_file(head).items()}  # fmt: skip
    save_file(wide, tmp_path / "wide.safetensors")
    refusal(Aesthetic(str(clip), tmp_path / "wide.safetensors"), r"must be the head for vectors of 24")


def test_weights_that_are_no_numbers_are_told(clip, head, tmp_path):
    for source, name in ((clip / "model.safetensors", "visual_projection.weight"), (head, "layers.7.bias")):
        folder = shutil.copytree(source.parent, tmp_path / source.stem)
        tensors = load_file(source)
        tensors[name][0] = float("nan")
        save_file(tensors, folder / source.name, {"format": "pt"})
    refusal(
        CLIPScore(str(tmp_path / "model")), r"clipscore: .*model: a tensor is not finite .*visual_projection.weight"
    )
    refusal(Aesthetic(str(clip), tmp_path / "head" / head.name), r"aesthetic: .*: a tensor is not finite .*4.bias")


def test_a_score_that_is_no_number_is_told():
    scorer = Batched("clipscore", "", lambda images, prompts: torch.full((len(images),), float("nan")))
    with pytest.raises(UserError, match="clipscore: a score is not a number; use precision fp32"):
        score(scorer, IMAGES[:1], PROMPTS[:1])
