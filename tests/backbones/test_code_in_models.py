"""Models whose folders hold code: it is never run, nobody is asked whether it may be, and there is one line at most."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import tiny_vision
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from contrapose.backbones.families.table import load_backbone, prompt_reader
from contrapose.backbones.meta import skeleton
from contrapose.degrade.local_writer import LocalWriter
from contrapose.errors import UserError
from contrapose.judges.clip_score import CLIPScore
from contrapose.judges.yes_no import YesNo
from contrapose.photographs.spoil.segmenter import Segmenter

# Every name that transformers looks for in `auto_map`.
AUTO = ["AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor",
        "AutoModelForSemanticSegmentation", "AutoImageProcessor", "AutoTokenizer"]  # fmt: skip


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal on which somebody would say yes; what was asked."""
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda question="": asked.append(question) or "y")
    return asked


def _with_code(folder: Path, mark: Path) -> Path:
    """Code beside every configuration, which leaves a mark when it is imported."""
    for path in [p for p in folder.rglob("*.json") if "config" in p.name and "generation" not in p.name]:
        code = f"open({str(mark)!r}, 'w').close()\nclass Evil:\n    pass\n"
        (path.parent / "evil.py").write_text(code)
        names = dict.fromkeys(AUTO, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": names}))
    (folder / "pipeline.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "models": load_backbone,
    "tokenizers": prompt_reader,
    "skeletons": skeleton,
}


@pytest.mark.parametrize("family", ["sd", "sana", *families.names(chat=True)])
@pytest.mark.parametrize("reader", READERS)
def test_of_models(
    reader: str, family: str, tiny_family: Callable[[str], Path], tmp_path: Path, terminal: list[str]
) -> None:
    """They are read as if the code were not there."""
    model = _with_code(shutil.copytree(tiny_family(family), tmp_path / "model"), tmp_path / "ran")
    READERS[reader](model)
    assert terminal == []
    assert not (tmp_path / "ran").exists()


def _save_segmenter(folder: Path) -> None:
    labels = {"id2label": {0: "background", 1: "thing"}, "label2id": {"background": 0, "thing": 1}}
    config = SegformerConfig(hidden_sizes=[8, 8, 8, 8], decoder_hidden_size=8, num_attention_heads=[1] * 4, **labels)
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    settings = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


OTHERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "clip": (tiny_vision.save_clip, lambda folder: CLIPScore(str(folder)).load("cpu")),
    "chat": (tiny_vision.save_chat_model, lambda folder: YesNo(str(folder), precision="fp32").load("cpu")),
    "segmenter": (_save_segmenter, lambda folder: Segmenter(str(folder), "cpu")),
    "writer": (tiny_vision.save_chat_model, lambda folder: LocalWriter(str(folder)).write(["a"], 0)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_of_judges_and_writers(kind: str, tmp_path: Path, terminal: list[str]) -> None:
    """They are read, or refused in one line."""
    save, load = OTHERS[kind]
    save(tmp_path / "plain")
    try:
        load(_with_code(tmp_path / "plain", tmp_path / "ran"))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    assert terminal == []
    assert not (tmp_path / "ran").exists()


def test_of_a_kind_that_needs_its_code(tmp_path: Path, terminal: list[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "somebodys-own"}))
    _with_code(tmp_path / "model", tmp_path / "ran")
    with pytest.raises(UserError) as refused:
        LocalWriter(str(tmp_path / "model")).write(["a"], 0)
    assert len(str(refused.value).splitlines()) == 1
    assert terminal == []
    assert not (tmp_path / "ran").exists()
