"""GenEval by a tiny random Mask2Former and CLIP: the reading of instances and colours by hand, the suite's checks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.geneval.colours import COLOURS, TEMPLATES, ColourClassifier, crop
from contrapose.evaluate.geneval.detector import CLASSES, box_of, detections, load_detector
from contrapose.evaluate.geneval.suite import GenEval, GenEvalJudge
from contrapose.evaluate.verdict import Detection
from contrapose.judges.towers import load_towers
from contrapose.store.prompts import Prompt


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_mask2former(tmp_path_factory.mktemp("mask2former"), CLASSES)


def test_there_are_cocos_eighty_classes() -> None:
    assert len(set(CLASSES)) == 80
    assert [CLASSES[n] for n in (0, 14, 25, 62, 63, 64, 65, 66, 79)] == [
        "person", "bird", "umbrella", "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "toothbrush",
    ]  # fmt: skip


def one_query(number: int, sure: float, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A query that is `sure` of one class, by log odds over all others, and its mask."""
    classes = torch.zeros(1, 81)
    classes[0, number] = sure
    return classes, logits[None]


def test_an_instance_is_read_as_mmdet_does() -> None:
    logits = torch.full((4, 6), -5.0)
    logits[1:3, 2:5] = 2.0
    classes, masks = one_query(15, 6.0, logits)
    found = detections(classes, masks, (4, 6))
    (cat,) = found["cat"]
    p = math.exp(6) / (math.exp(6) + 80)
    assert set(found) == {"cat"}  # all others are too unlikely
    assert cat.box == (2, 1, 5, 3) and cat.mask.sum() == 6
    assert cat.score == pytest.approx(p / (1 + math.exp(-2.0)), rel=1e-5)


def test_masks_come_to_the_images_own_size() -> None:
    logits = torch.full((4, 4), -1.0)
    logits[:, :2] = 1.0
    ((_, (cat,)),) = detections(*one_query(15, 9.0, logits), (40, 80)).items()
    assert cat.mask.shape == (40, 80) and cat.box == (0, 0, 40, 40)


def test_a_query_may_be_several_classes_and_an_empty_mask_is_none() -> None:
    classes = torch.zeros(2, 81)
    classes[0, [15, 16]] = 8.0
    classes[1, 17] = 9.0
    masks = torch.stack([torch.full((3, 3), 4.0), torch.full((3, 3), -4.0)])
    assert set(detections(classes, masks, (3, 3))) == {"cat", "dog"}


def test_box() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[2, 3] = True
    assert box_of(mask) == (3, 2, 4, 3)


@pytest.mark.parametrize("size", [(40, 40), (120, 50)])
def test_the_network_sees_an_image_that_detections_fit(mask2former: Path, size: tuple[int, int]) -> None:
    image = np.asarray(tiny_vision.noise_image(1, size))
    found = load_detector(str(mask2former), "cpu").detect(image)
    assert found
    for objects in found.values():
        for detection in objects:
            assert detection.mask.shape == image.shape[:2] and 0 < detection.score <= 1


def test_other_classes_are_refused(clip: Path, tmp_path: Path) -> None:
    folder = tiny_vision.save_mask2former(tmp_path / "other", ("wall", *CLASSES[1:]))
    with pytest.raises(UserError, match="knows other classes than COCO's 80 things"):
        load_detector(str(folder), "cpu")


def test_a_colour_is_judged_on_grey() -> None:
    image = np.full((6, 8, 3), 200, dtype=np.uint8)
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:6] = True
    mask[1, 2] = False
    pixels = np.asarray(crop(image, Detection((2, 1, 6, 4), mask, 0.9)))
    assert pixels.shape == (3, 4, 3)
    assert (pixels[0, 0] == 0x99).all() and (pixels[0, 1] == 200).all()


def test_colours_are_the_nearest_text(clip: Path) -> None:
    towers = load_towers("test", str(clip), str(clip), "fp32", "cpu")
    image = np.asarray(tiny_vision.noise_image(4, (40, 40)))
    whole = Detection((0, 0, 40, 40), np.ones((40, 40), dtype=bool), 0.9)
    with torch.no_grad():
        seen = towers.see([Image.fromarray(image)])[0]
        cosines = []
        for colour in COLOURS:
            read = torch.stack([towers.read([t.format(colour=colour, name="cat")])[0] for t in TEMPLATES]).mean(0)
            cosines.append(float(seen @ read / read.norm()))
    assert ColourClassifier(towers)(image, whole, "cat") == COLOURS[int(np.argmax(cosines))]


class Shown:
    """A detector that sees a red cat in bright images and nothing in dark ones."""

    version = "1"

    def detect(self, image: np.ndarray) -> dict[str, list[Detection]]:
        whole = Detection((0, 0, 8, 8), np.ones((8, 8), dtype=bool), 0.95)
        return {"cat": [whole]} if image.mean() > 100 else {}


LINE = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}


def known_images(folder: Path, num_bright: int, num_dark: int) -> Path:
    samples = folder / "00000" / "samples"
    samples.mkdir(parents=True)
    (folder / "00000" / "metadata.jsonl").write_text(json.dumps({"prompt": "a red cat", **LINE}))
    for number in range(num_bright + num_dark):
        Image.new("RGB", (8, 8), "white" if number < num_bright else "black").save(samples / f"{number:04d}.png")
    return folder


def judge() -> GenEvalJudge:
    return GenEvalJudge(Shown(), lambda image, detection, name: "red", "1")


def test_the_verdict_comes_with_its_reason() -> None:
    images = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    marks = judge()(images, [Prompt("a red cat", LINE)] * 2)["correct"]
    assert marks.values.tolist() == [1, 0]
    assert marks.reason(0) is None and marks.reason(1) == "expected cat >= 1, found 0"


def test_a_detector_that_fails_on_known_images_judges_nothing(tmp_path: Path) -> None:
    suite = GenEval(self_test=tmp_path)
    suite._check_detector(judge(), known_images(tmp_path / "good", 2, 1))
    with pytest.raises(UserError, match=r"of 4 known images in \S+bad 1 were judged correct; the detector does not"):
        suite._check_detector(judge(), known_images(tmp_path / "bad", 1, 3))


def test_the_suite_runs_on_what_it_loads(mask2former: Path, clip: Path) -> None:
    suite = GenEval(str(mask2former), str(clip))
    loaded = suite.load("cpu")
    image = tiny_vision.noise_image(1)
    objects = loaded.detector.detect(np.asarray(image))
    name, least = max(objects, key=lambda cls: max(one.score for one in objects[cls])), 0.3
    seen = max(one.score for one in objects[name]) > least
    wanted, absent = ({"tag": "single_object", "include": [{"class": cls, "count": 1}]} for cls in (name, "nothing"))
    marks = loaded([image, image], [Prompt("it", wanted), Prompt("nothing", absent)])["correct"]
    assert marks.values.tolist() == [float(seen), 0.0]
    assert marks.reason(1) == "expected nothing >= 1, found 0"
    assert loaded.version == suite.load("cpu").version


@pytest.mark.slow
def test_a_folder_is_judged_and_its_results_are_judged_to_the_same(
    mask2former: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a random detector, which finds something somewhere: the second time without any network."""
    monkeypatch.chdir(tmp_path)
    objects = load_detector(str(mask2former), "cpu").detect(np.asarray(tiny_vision.noise_image(0)))
    names = sorted(objects, key=lambda name: -max(detection.score for detection in objects[name]))
    lines = [{"tag": "colors", "include": [{"class": name, "count": 1, "color": "red"}]} for name in names[:2]]
    lines += [{"tag": "single_object", "include": [{"class": name, "count": 1}]} for name in (names[0], "toothbrush")]
    for number in range(len(lines)):
        samples = Path(f"images/{number:05d}/samples")
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps({"prompt": f"prompt {number}"}))
        tiny_vision.noise_image(0).save(samples / "0000.png")
    listed = [json.dumps({"prompt": f"prompt {number}", **line}) for number, line in enumerate(lines)]
    Path("metadata.jsonl").write_text("\n".join(listed))
    shared = ["evaluate", "--suite", "geneval", "--images", "base=images", "--prompts", "metadata.jsonl"]
    by_network = ["--detector", str(mask2former), "--clip", str(clip), "--out", "out"]
    assert main([*shared, *by_network]) == 0
    again = ["--detections", "base=out/results/base.jsonl", "--detector", "none", "--clip", "none", "--out", "again"]
    assert main([*shared, *again]) == 0
    results = [Path(out, "results/base.jsonl").read_text() for out in ("out", "again")]
    assert results[0] == results[1]
    judged = [json.loads(line) for line in results[0].splitlines()]
    assert [line["prompt"] for line in judged] == [f"prompt {number}" for number in range(4)]
    assert json.loads(judged[0]["details"])  # the detector saw something, or this would show nothing
    assert judged[2]["correct"] == (max(detection.score for detection in objects[names[0]]) > 0.3)


def test_a_line_of_another_kind_is_refused() -> None:
    suite = GenEval()
    suite.check([Prompt("a red cat", LINE)])
    with pytest.raises(UserError, match="asks for nothing; give GenEval's fields"):
        suite.check([Prompt("a red cat", {})])
