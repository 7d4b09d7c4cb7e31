"""T2I-CompBench's places, counts and complex prompts, by a tiny random OWLv2 and by boxes made by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image
from transformers import AutoTokenizer, DPTForDepthEstimation, Owlv2ForObjectDetection
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.boxes import Box
from contrapose.evaluate.compbench.depth import load_nearness
from contrapose.evaluate.compbench.owl import load_owl
from contrapose.evaluate.compbench.phrases import Phrases
from contrapose.evaluate.compbench.results import write_answers
from contrapose.evaluate.compbench.rules import overlap
from contrapose.evaluate.compbench.suite import TITLE, CompBench, CompBenchJudge
from contrapose.evaluate.compbench.things import counts_of, thing_of, things_around
from contrapose.evaluate.rows import EvidenceRow, read_rows
from contrapose.store.prompts import Prompt

NAMES = ["red circle", "star"]
IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33), (33, 90)])]


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_owl(tmp_path_factory.mktemp("owl"))


@torch.no_grad()
def expected(folder: Path, image: Image.Image, least: float) -> dict[str, list[Box]]:
    """By transformers' own reading of boxes, in pixels of the image scaled to 480, then without doubles by hand."""
    network = Owlv2ForObjectDetection.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = Owlv2ImageProcessorPil.from_pretrained(folder)
    texts = [f"a photo of a {name}" for name in NAMES]
    text = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    answer = network(**text, pixel_values=processor(images=[image], return_tensors="pt")["pixel_values"])
    scale = 480 / max(image.size)
    size = [(image.height * scale, image.width * scale)]
    [read] = processor.post_process_object_detection(answer, least, torch.tensor(size))
    boxes: dict[str, list[Box]] = {name: [] for name in NAMES}
    for place in np.argsort(-read["scores"].numpy(), kind="stable"):
        edges = read["boxes"][place].numpy().clip(0, [size[0][1], size[0][0]] * 2)
        box = Box(*map(float, edges), float(read["scores"][place]))
        name = NAMES[int(read["labels"][place])]
        is_there = edges[2] > edges[0] and edges[3] > edges[1]
        if is_there and all(overlap(box, other) <= 0.5 for other in boxes[name]):
            boxes[name].append(box)
    return boxes


@pytest.mark.parametrize("least", [0.2, 0.6])
def test_boxes_are_transformers_own_in_a_frame_of_480(owl: Path, least: float) -> None:
    detector = load_owl("compbench", str(owl), least, "cpu")
    numbers = set()
    for image in IMAGES:
        boxes = detector.find(image, [*NAMES, NAMES[0]])
        wanted = expected(owl, image, least)
        assert boxes.keys() == wanted.keys()
        for name in NAMES:
            assert np.allclose(np.array(boxes[name]), np.array(wanted[name]), atol=1e-3)
            numbers.add(len(boxes[name]))
    assert len(numbers) > 1


class HandMade:
    """A detector that sees what it is told, and notes what it was asked for."""

    def __init__(self, **boxes: Sequence[Box]) -> None:
        self.boxes = boxes
        self.asked: list[str] = []

    def find(self, image: Image.Image, names: Sequence[str]) -> dict[str, list[Box]]:
        self.asked += names
        return {name: list(self.boxes.get(name, ())) for name in names}


LEFT = Box(10, 100, 60, 150, 0.8)
RIGHT = Box(300, 100, 360, 160, 0.6)


def judged(detector: HandMade, category: str, text: str) -> tuple[float, str | None]:
    judge = CompBenchJudge(None, None, detector, None, Phrases(None), category, "1")
    marks = judge(IMAGES[:1], [Prompt(text)])["compbench"]
    return float(marks.values[0]), marks.reason(0)


def test_places_of_the_first_and_the_last_thing() -> None:
    detector = HandMade(person=[RIGHT], dog=[LEFT, RIGHT])
    value, reason = judged(detector, "spatial", "a girl on the right of a dog")
    assert value == pytest.approx(0.25 * 0.6 + 0.25 * 0.8 + 0.5) and reason is None
    assert detector.asked == ["person", "dog"]
    assert judged(detector, "spatial", "a man on the left of a dog") == (0.0, "person is not on the left of dog")
    assert judged(detector, "spatial", "a cow on the left of a dog") == (0.0, "not seen: cow")


def test_counts() -> None:
    detector = HandMade(dog=[LEFT, RIGHT], person=[LEFT])
    assert judged(detector, "numeracy", "two dogs and one boy") == (1.0, None)
    assert judged(detector, "numeracy", "three dogs and one cat") == (0.25, "dog: 2, not 3\ncat: 0, not 1")


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("the red hat is next to the brown rack", ("red hat", "brown rack")),
        ("the red hat is on the left of the cat", ("red hat", "cat")),
        ("the hat on top of the rack near the cat", None),
        ("the hat and the cat", None),
        ("near the cat", None),
        ("a fearful cat", None),
    ],
)
def test_things_around_a_place(text: str, things: tuple[str, str] | None) -> None:
    assert things_around(text) == things


@pytest.mark.parametrize(
    ("phrase", "thing"), [("a traffic light", "traffic light"), ("The young Woman", "person"), ("the", "the")]
)
def test_things_of_phrases(phrase: str, thing: str) -> None:
    assert thing_of(phrase) == thing


def test_counts_of_phrases() -> None:
    phrases = ["two men", "an ox", "five berries", "six boxes", "eight wine glasses", "the cat", "seven", "four knives"]
    counts = [("person", 2), ("ox", 1), ("berry", 5), ("box", 6), ("wine glass", 8), ("knife", 4)]
    assert counts_of([*phrases, "three cats"]) == [*counts, ("cat", 3)]


@pytest.mark.parametrize(
    ("settings", "text", "complaint"),
    [
        ({"category": "spatial"}, "a cat near a dog", "takes a detector; name one with --owl google/owlv2-base"),
        ({"category": "3d_spatial", "owl": "x"}, "a cat behind a dog", "takes depths; name --depth Intel/dpt-hybrid"),
        ({"category": "numeracy", "owl": "x"}, "the cat", "counts nothing"),
        ({"category": "spatial", "owl": "x"}, "the", "has no noun phrases"),
    ],
)
def test_prompts_that_cannot_be_judged_are_told(settings: dict[str, str], text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        CompBench(**settings).check([Prompt(text)])


def test_a_detector_that_would_not_be_used_is_refused() -> None:
    with pytest.raises(UserError, match="color is judged without a detector"):
        CompBench(category="color", owl="x")
    with pytest.raises(UserError, match="spatial is judged without it"):
        CompBench(category="spatial", owl="x", depth="x")


@pytest.fixture(scope="module")
def three(owl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    blip = tiny_vision.save_blip(tmp_path_factory.mktemp("blip"), answers=True)
    return {"blip": str(blip), "clip": str(tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))), "owl": str(owl)}


@pytest.mark.parametrize(("kind", "parts"), [("_spatial", (0, 1)), ("_action", (0, 2)), ("", (0, 1, 2))])
def test_complex_prompts_are_the_mean_of_their_parts(three: dict[str, str], kind: str, parts: tuple[int, ...]) -> None:
    prompt = Prompt("the red circle is near the blue star", {"tag": f"complex_val{kind}"})
    judge = CompBench(side=32, **three).load("cpu")
    every: list[float] = []
    for category in ("color", "spatial", "non_spatial"):
        settings = {**three, "owl": three["owl"] if category == "spatial" else ""}
        alone = CompBench(category=category, side=32, least_score=0.2, **settings).load("cpu")
        text = Prompt("red circle near blue star") if category == "spatial" else prompt
        every.append(float(alone(IMAGES[:1], [text])["compbench"].values[0]))
    value = judge(IMAGES[:1], [prompt])["compbench"].values[0]
    assert value == pytest.approx(np.mean([every[part] for part in parts]), abs=1e-6)


@torch.no_grad()
def test_depths_are_means_of_a_dpt_over_boxes(tmp_path: Path) -> None:
    folder = tiny_vision.save_dpt(tmp_path)
    nearness = load_nearness("compbench", str(folder), "cpu")
    image = IMAGES[1]  # 90x33, 480x176 in the frame
    network = DPTForDepthEstimation.from_pretrained(folder).eval()
    pixels = DPTImageProcessorPil.from_pretrained(folder)(images=[image], return_tensors="pt")["pixel_values"]
    depth = network(pixels).predicted_depth[0]
    seen = torch.nn.functional.interpolate(depth[None, None], (176, 480), mode="bilinear", align_corners=True)[0, 0]
    a, b = Box(20.7, 10, 120, 90.2, 1.0), Box(300, 100, 470, 176, 1.0)
    wanted = float(seen[10:90, 20:120].mean() - seen[100:176, 300:470].mean())
    assert abs(wanted) > 1e-3
    assert nearness.nearer(image, a, b) == pytest.approx(wanted, rel=1e-3)
    assert nearness.nearer(image, b, a) == pytest.approx(-wanted, rel=1e-3)
    assert nearness.nearer(image, Box(480, 176, 480, 176, 1.0), Box(479, 175, 480, 176, 1.0)) == 0.0  # the last pixel


class Nearer:
    """A map of depths by which every first thing is nearer."""

    def nearer(self, image: Image.Image, a: Box, b: Box) -> float:
        return 1.0


def test_depth_is_half_of_the_score_and_is_never_cut() -> None:
    dog = Box(0, 0, 100, 100, 0.4)
    cat = Box(0, 0, 100, 80, 0.6)  # IoU 0.8
    judge = CompBenchJudge(None, None, HandMade(dog=[dog], cat=[cat]), Nearer(), Phrases(None), "3d_spatial", "1")
    prompts = [Prompt(f"a {words}") for words in ("dog in front of a cat", "dog behind a cat", "cow behind a cat")]
    marks = judge([IMAGES[0]] * 3, prompts)["compbench"]
    assert marks.values == pytest.approx([0.25 + 0.5, 0.25, 0.15])
    assert marks.reasons == [None, "dog is not behind cat", "not seen: cow"]


def test_depth_end_to_end(owl: Path, tmp_path: Path) -> None:
    dpt = tiny_vision.save_dpt(tmp_path)
    suite = CompBench(category="3d_spatial", owl=str(owl), depth=str(dpt))
    prompt = Prompt("a red circle behind a star")
    suite.check([prompt])
    [value] = suite.load("cpu")(IMAGES[:1], [prompt])["compbench"].values
    boxes = load_owl("compbench", str(owl), 0.2, "cpu").find(IMAGES[0], NAMES)
    confident = sum(boxes[name][0].score for name in NAMES) / 4
    assert confident - 1e-6 <= value <= confident + 0.5


def test_answers_by_category_whose_prompts_share_seeds(tmp_path: Path) -> None:
    rows = [
        EvidenceRow("a/0", "1-x", "color_val", 42, "compbench", 0.75),
        EvidenceRow("a/0", "0-y", "color_val", 43, "compbench", 0.5),
        EvidenceRow("a/0", "0-y", "color_val", 42, "compbench", 0.25),
        EvidenceRow("a/0", "2-z", "complex", 42, "compbench", 1.0),
        EvidenceRow("a/0", "2-z", "complex", 42, "vendi", 3.0),
    ]
    write_answers(rows, "tag", tmp_path / "results")
    folder = tmp_path / "results"
    assert sorted(path.name for path in folder.iterdir()) == ["a%2F0_color", "a%2F0_complex"]
    answers = json.loads((folder / "a%2F0_color" / "vqa_result.json").read_text())
    assert [answer["answer"] for answer in answers] == [0.25, 0.5, 0.75]
    assert [answer["question_id"] for answer in answers] == [0, 1, 2]
    assert (folder / "a%2F0_color" / "avg_score.txt").read_text() == "score avg:0.5"


@pytest.mark.slow
def test_an_evaluation_by_boxes_says_that_it_does_not_compare(
    owl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("base", "tuned"):
        for place, text in enumerate(["two stars and one circle", "three circles"]):
            folder = tmp_path / model / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            tiny_vision.noise_image(place + 5 * (model == "base")).save(folder / f"{text}_00000{place}.png")
    by_owl = ["evaluate", "--suite", "compbench", "--category", "numeracy", "--owl", str(owl), "--device", "cpu"]
    images = ["--images", f"base={tmp_path}/base", f"tuned={tmp_path}/tuned"]
    assert main([*by_owl, *images, "--out", str(tmp_path / "evidence")]) == 0
    assert TITLE in capsys.readouterr().out.splitlines()
    rows = read_rows(tmp_path / "evidence" / "rows.parquet")
    for model in ("base", "tuned"):
        answers = json.loads((tmp_path / "evidence" / "results" / f"{model}_numeracy" / "vqa_result.json").read_text())
        by_seed = {row.seed: row.value for row in rows if row.model == model and row.metric == "compbench"}
        assert answers == [{"question_id": seed, "answer": by_seed[seed]} for seed in (0, 1)]
        average = (tmp_path / "evidence" / "results" / f"{model}_numeracy" / "avg_score.txt").read_text()
        assert average == f"score avg:{(by_seed[0] + by_seed[1]) / 2}"
    assert main(["report", "--evidence", str(tmp_path / "evidence"), "--out", str(tmp_path / "page.html")]) == 0
    assert TITLE in (tmp_path / "page.html").read_text()
