"""Judges over HTTP as filters of photographs, in a real.yaml, as any other judge is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import serving

from contrapose.cli.main import main
from contrapose.worlds.shapes import blueprint

pytestmark = pytest.mark.slow

MODEL = Path(blueprint.__file__).with_name("model")
TOLD = {"/": {"version": "1", "higher_is_better": {"length": True}}}


def _reply(asked: Any, n: int) -> tuple[int, object]:
    if isinstance(asked, str):
        return 200, f"Score: {len(asked) % 10}"
    return 200, {"scores": [{"length": len(entry["prompt"])} for entry in asked["images"]]}


@pytest.mark.parametrize("name", ["endpoint", "http"])
def test_each_keeps_the_best_photographs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    assert main(["shapes", "photos", "--out", str(photos), "--num-photos", "4", "--seed", "1"]) == 0
    with serving(_reply, TOLD) as stub:
        scorer = {"name": name, "address": f"{stub.url}/"}
        if name == "endpoint":
            scorer["model"] = "tiny"
        settings = {
            "model": str(MODEL),
            "photos": str(photos),
            "spoil": {"name": "degrade"},
            "filters": [{"name": "top-k", "k": 2, "scorer": scorer}],
        }
        (tmp_path / "real.yaml").write_text(yaml.safe_dump(settings))
        assert main(["pairs", "real", str(tmp_path / "real.yaml"), "--out", str(tmp_path / "pairs")]) == 0
        assert len(stub.requests) in (1, 4)
    skipped = (tmp_path / "pairs" / "skipped.jsonl").read_text().splitlines()
    assert len(skipped) == 2 and all("is not among the 2 best" in line for line in skipped)
