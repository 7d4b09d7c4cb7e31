"""The model card: its front matter, that its code runs, and that no path or markup of the user's gets through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from training import with_full, with_lora
from watching import draw_step

from contrapose import runfile
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.guiding.guide import guide
from contrapose.judges.yes_no import YesNo
from contrapose.methods import METHODS
from contrapose.methods.ddspo import DDSPO
from contrapose.publish.base import Base, base_of
from contrapose.publish.card import finish_run, published, run_card, without_folders
from contrapose.publish.gallery import gallery_of_run
from contrapose.publish.markdown import plain
from contrapose.runs.names import CARD
from contrapose.runs.origin import hub_id, last_name
from contrapose.runs.seal import is_edited
from contrapose.store.records import GroupRecord
from contrapose.train.judging import RolloutJudging
from contrapose.train.settings import CONVERTER, Run

METRICS = {"held_out/accuracy": 0.8125, "held_out/drift@0.5": 0.00123456}


def _run(**settings: Any) -> Run:
    return Run(**({"model": "someone/tiny-model", "pairs": Path("pairs"), "method": DDSPO()} | settings)).resolved()


def _card(folder: Path, run: Run, metrics: dict[str, float] | None = None, repo: str | None = None) -> str:
    folder.mkdir(exist_ok=True)
    measured = METRICS if metrics is None else metrics
    return run_card(folder, run, measured, base_of(run.model), gallery_of_run(folder), repo)


def _front(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def _code(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    return found[1]


def _rows(card: str) -> dict[str, str]:
    """Every table's rows, split at bars that are not escaped."""
    lines = [re.split(r"(?<!\\)\|", line) for line in card.splitlines() if line.startswith("|")]
    assert all(len(cells) == 4 for cells in lines)
    return {cells[1].strip().replace("\\", ""): cells[2].strip() for cells in lines}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("full", [False, True])
def test_front_matter_and_facts(tmp_path: Path, method: str, full: bool) -> None:
    card = _card(tmp_path / "run", _run(method=METHODS[method](), full=full), repo="me/aligned")
    assert _front(card) == {
        "base_model": "someone/tiny-model",
        "base_model_relation": "finetune" if full else "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "contrapose", method, "full" if full else "lora"],
    }
    rows = _rows(card)
    assert rows["accuracy"] == "0.8125"
    assert rows["drift@0.5"] == "0.001235"
    assert rows["method.name"] == method
    assert rows["optimisation.train_steps"] == "200"
    assert rows["full"] == ("yes" if full else "no")
    assert card.count("# aligned\n") == 1
    assert "\n\n\n" not in card


def test_the_paper_is_linked(tmp_path: Path) -> None:
    assert "(https://arxiv.org/abs/2512.23426)" in _card(tmp_path / "run", _run())


def test_a_hub_name_is_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_id("someone/model-1.5") == "someone/model-1.5"
    strange = ("model", "/a/b", "./a/b", "a/b/c", "~/b", "C:\\a", "a b/c", "../b")
    assert [hub_id(name) for name in strange] == [None] * len(strange)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("models/mine") is None
    assert last_name(".") == tmp_path.name
    assert [last_name(p) for p in ("/a/b", "C:\\a\\b", "a/b/", "b")] == ["b"] * 4


def test_no_path_of_this_machine(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    records = [GroupRecord.pair(f"{i}", "a red circle", "a circle", i) for i in range(6)]
    pairs = write_store(tmp_path / "my pairs", records, {n: torch.zeros(6, 4, 8, 8) for n in ("winner", "loser")})
    draw = {
        "model": str(tmp_path / "model"),
        "prompts": str(tmp_path / "prompts.txt"),
        "degrade": {"name": "words", "cache": str(tmp_path / "cache"), "endpoint": "http://inside:8000"},
        "steps": 25,
        "guidance_scale": None,
        "sizes": ["512x512", "512x768"],
        "reading": {"image_folder": "client/images"},
        "source": "client/list.csv",
        "captioner": {"model": "b", "address": "http://inside:8001/v1", "asking": {"patience": 3.0}},
        "filters": [{"name": "top-k", "scorer": {"name": "yes-no", "address": "http://inside:8002"}}],
    }
    manifest = yaml.safe_load((pairs / "pairs.yaml").read_text())
    (pairs / "pairs.yaml").write_text(yaml.safe_dump(manifest | {"draw": draw}))
    card = _card(tmp_path / "run", _run(model=str(tmp_path / "model"), pairs=pairs))
    assert str(tmp_path) not in card
    assert "inside" not in card and "client" not in card and "patience" not in card
    assert "base_model" not in _front(card), "the hub would look for a repository of that name"
    rows = _rows(card)
    told = {"number": "6", "prompts": "prompts.txt", "degrade.name": "words", "steps": "25", "pairs": "my pairs"}
    assert told.items() <= rows.items()
    assert rows["sizes"] == "512x512, 512x768"
    assert (rows["source"], rows["reading.image_folder"]) == ("list.csv", "images")
    assert (rows["filters.0.name"], rows["filters.0.scorer.name"]) == ("top-k", "yes-no")
    assert "guidance_scale" not in rows


SERVERS = {
    "http://me:word@inside:8000/v1": "http://127.0.0.1:8000/v1",
    "https://inside/v1": "https://127.0.0.1/v1",
    "http://[fe80::1]:8000": "http://127.0.0.1:8000",
    "http://[fe80::1]": "http://127.0.0.1",
}


def test_what_is_published_can_be_read_again(tmp_path: Path) -> None:
    run = _run(model=str(tmp_path / "model"), pairs=tmp_path / "pairs")
    again = CONVERTER.structure(published(run), Run)
    assert again == replace(run, model="model", pairs=Path("pairs"))
    for address, told in SERVERS.items():
        judging = RolloutJudging(rollout_judges=(YesNo("m", address=address),))
        judged = _run(method=METHODS["online-dpo"](), judging=judging)
        assert published(judged)["judging"]["rollout_judges"][0]["address"] == told
    assert published(_run())["model"] == "someone/tiny-model"
    assert without_folders({"a": ["/x/y", "a/b", 3, None, "C:\\x\\y"]}) == {"a": ["y", "a/b", 3, None, "y"]}
    assert without_folders("a/" + "b" * 5000) == "a/" + "b" * 5000


def test_pairs_that_are_gone(tmp_path: Path) -> None:
    card = _card(tmp_path / "run", _run(pairs=tmp_path / "none"), metrics={})
    assert "could not be read" in card
    assert "Nothing was measured" in card


def test_prompts_in_the_place_of_pairs(tmp_path: Path) -> None:
    """What a method that draws all of its samples was trained on, where it is there and where it is gone."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\na cat\n")
    card = _card(tmp_path / "run", _run(pairs=prompts))
    assert "- Prompts: the file prompts.txt, described below" in card and "## Prompts\n" in card
    assert _rows(card)["number"] == "2"
    prompts.unlink()
    assert "The prompts in prompts.txt could not be read" in _card(tmp_path / "run", _run(pairs=prompts))


NASTY = "a|b `code` <script>x</script> & *b* [l](u) # $x$\n| c\\"


def test_markup_is_shown_not_obeyed(tmp_path: Path) -> None:
    assert plain("a|b\n`c` <d>") == "a\\|b \\`c\\` &lt;d&gt;"
    assert plain("lora_rank __init__ _a_ a_") == "lora_rank \\_\\_init\\_\\_ \\_a\\_ a\\_"
    card = _card(tmp_path / "run", _run(model=NASTY, pairs=Path(NASTY)), metrics={NASTY: 1.0})
    assert "<script>" not in card.replace(_code(card), "")
    assert "`code`" not in card.replace(_code(card), "")
    assert _rows(card)  # no bar or line of the text's own
    compile(_code(card), "card", "exec")
    assert "base_model" not in _front(card)


def test_a_surrogate_in_a_path_is_survived(tmp_path: Path) -> None:
    _card(tmp_path / "run", _run(model="x\udce9"))


def test_a_card_that_somebody_changed_is_known(tmp_path: Path) -> None:
    card = _card(tmp_path / "run", _run())
    assert not is_edited(card)
    changes = (
        card.replace("aligned", "made"),
        f"{card}Thanks to all.\n",
        card.rpartition("<!--")[0],
        "my own words",
        "",
    )
    assert all(is_edited(changed) for changed in changes)


# The model below it


def _model(folder: Path, card: str = "", **index: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


OPENRAIL = "---\nlicense: other\nlicense_name: openrail\nlicense_link: LICENSE\nbase_model: [a/older]\n---\n# It\n"
STATED = {"license": "other", "license_name": "openrail", "license_link": "LICENSE"}


def test_what_a_folder_tells_of_the_model_in_it(tmp_path: Path) -> None:
    hub = {"some/model": {"license": "mit"}, "a/older": {"license": "apache-2.0"}, "no/license": {}}.__getitem__
    cached = _model(tmp_path / "models--some--model" / "snapshots" / "abc", _name_or_path="a/older")
    assert base_of(str(cached)) == Base("some/model", {})
    assert base_of(str(cached), hub) == Base("some/model", {"license": "mit"})
    noted = _model(tmp_path / "noted", OPENRAIL, _name_or_path="some/model")
    assert base_of(str(noted), hub) == Base("some/model", STATED), "its own card goes before the hub's"
    assert base_of(str(_model(tmp_path / "said", OPENRAIL))) == Base("a/older", STATED)
    elsewhere = _model(tmp_path / "elsewhere", "no head", _name_or_path=str(tmp_path / "noted"))
    assert base_of(str(elsewhere), hub) == Base(None, {}), "a folder of this machine is no name on the hub"
    broken = _model(tmp_path / "broken", "---\nlicense: [1\n---\n")
    (broken / "model_index.json").write_text("{")
    assert base_of(str(broken), hub) == Base(None, {})
    assert base_of("no/license", hub) == Base("no/license", {})
    assert base_of(str(tmp_path / "one.safetensors"), hub) == Base(None, {})


def test_the_head_names_the_base_of_a_folder_and_its_licence(tmp_path: Path) -> None:
    model = _model(tmp_path / "noted", OPENRAIL, _name_or_path="some/model")
    front = _front(_card(tmp_path / "run", _run(model=str(model))))
    assert front["base_model"] == "some/model"
    assert STATED.items() <= front.items()


# The gallery


def test_the_gallery_shows_what_was_drawn_last_beside_the_base(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (0, 50, 100):
        draw_step(run, step, ("a red fox", "a <b>|</b>"), seeds=2)
    card = _card(run, _run(), repo="me/aligned")
    last = "images/step-000100/00000/samples/0000.png"
    assert _front(card)["widget"] == [
        {"text": "a red fox", "output": {"url": last}},
        {"text": "a <b>|</b>", "output": {"url": last.replace("00000/", "00001/")}},
    ]
    assert f"| a red fox | ![](images/step-000000/00000/samples/0000.png) | ![]({last}) |" in card
    assert "<b>" not in card.partition("---\n\n")[2]
    assert "after 100 steps" in card and "<Gallery />" in card
    gallery = gallery_of_run(run, step=60)
    assert {image.name for image in gallery.images} == {
        f"images/step-000050/{number:05d}/samples/0000.png" for number in (0, 1)
    }
    assert all((run / name) == path and path.is_file() for name, path in gallery.files.items())
    assert gallery_of_run(run, step=0).images == (), "of the base alone there is nothing to show"


def test_without_images_the_card_says_how_to_add_them(tmp_path: Path) -> None:
    card = _card(tmp_path / "run", _run(), repo="me/aligned")
    assert "`contrapose push FOLDER me/aligned --images images`" in card
    assert "widget" not in _front(card)
    assert "<Gallery" not in card


# The code of the card


def _saved(name: str, folder: Path, full: bool) -> Run:
    """A tiny model at path/to/model and a run at path/to/run, as the card says."""
    backbone = load_backbone(tiny.save(name, folder / "path" / "to" / "model"))
    backbone = with_full(backbone, torch.float32) if full else with_lora(backbone, 2, 4.0)
    (folder / "path" / "to" / "run").mkdir()
    backbone.save(folder / "path" / "to" / "run")
    lora = {} if full else {"lora_rank": 2, "lora_alpha": 4.0}
    return _run(model=str(folder / "path" / "to" / "model"), full=full, **lora)


@pytest.mark.parametrize(("name", "full"), [("sd", False), ("sd", True), ("pixart", False)])
def test_the_code_runs(name: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _saved(name, tmp_path, full)
    code = _code(_card(tmp_path / "path" / "to" / "run", run))
    loading, _, drawing = code.partition("image = ")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(loading, names)
    assert drawing == 'pipe("a red circle above a blue square").images[0]\n'
    network = names["pipe"].unet if name == "sd" else names["pipe"].transformer
    assert any("lora" in key for key in network.state_dict()) is not full
    if name == "sd":
        names["pipe"].set_progress_bar_config(disable=True)
        assert eval(drawing, names).size == (16, 16)


@pytest.mark.parametrize(
    ("name", "full", "on_hub"), [("sd", False, False), ("sd", True, True), ("pixart", False, True)]
)
def test_the_code_of_two_policies(
    name: str, full: bool, on_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It guides by both, from a folder and from the hub."""
    model, folder = tmp_path / "path" / "to" / "model", tmp_path / "path" / "to" / "run"
    backbone, policies = load_backbone(tiny.save(name, model)), ("positive", "negative")
    backbone = with_full(backbone, torch.float32, True, policies) if full else with_lora(backbone, 2, 4.0, policies)
    backbone.save(folder)
    lora = {} if full else {"lora_rank": 2, "lora_alpha": 4.0}
    run = _run(model=str(model), method=METHODS["chats"](), full=full, **lora)
    card = _card(folder, run, repo="me/aligned" if on_hub else None)
    assert "in the folders `positive/` and `negative/`" in card
    assert "\n\n\n" not in card
    assert card.count("```") == 2
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"me/aligned": str(folder)}.get)
    monkeypatch.setattr("contrapose.guide", lambda pipe, **options: asked.append(options) or guide(pipe, **options))
    monkeypatch.chdir(tmp_path)
    image = 'image = pipe("a red circle above a blue square").images[0]'
    assert image in _code(card)
    exec(_code(card).replace(image, "assert pipe"), {})
    where = str(folder) if on_hub else "path/to/run"
    assert asked == [{"positive": f"{where}/positive", "negative": f"{where}/negative", "method": "chats"}]
    assert ("contrapose export --run FOLDER/positive" in card) == (name == "sd" and not full)


def test_the_code_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = _card(tmp_path / "path" / "to" / "run", _saved("sd", tmp_path, full=True), repo="me/aligned")
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"me/aligned": str(tmp_path / "path/to/run")}.get)
    names: dict[str, Any] = {}
    exec(_code(card).partition("image = ")[0], names)
    assert names["pipe"].unet
    lora = _code(_card(tmp_path / "run", _run(), repo="me/aligned"))
    assert "load_lora_weights('me/aligned')" in lora
    assert "from_pretrained('someone/tiny-model')" in lora


def test_a_finished_run_gets_a_card_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(UserError, match="has not finished, so there is nothing to write a model card of"):
        finish_run(folder)
    run = Run("somewhere/model", tmp_path / "pairs", DDSPO())
    (folder / "run.yaml").write_text(runfile.to_yaml(run.resolved(), CONVERTER))
    (folder / "metrics.jsonl").write_text('{"step": 200, "loss": 0.6, "held_out/accuracy": 0.8125}\n')
    (folder / "finished.json").write_text('{"steps": 200}')
    finish_run(folder)
    assert "0.8125" in (folder / CARD).read_text()
    (folder / CARD).write_text("my own words")
    finish_run(folder)
    assert (folder / CARD).read_text() == "my own words"
