"""What goes to the hub and what stays here, with a hub in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny
import torch
import yaml
from hub_in_memory import ADDRESS, ALWAYS, WEIGHTS, Hub, finish
from huggingface_hub.errors import LocalTokenNotFoundError
from training import with_full, with_lora

from contrapose import runfile
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.documents import front_matter
from contrapose.errors import UserError
from contrapose.files import discard
from contrapose.methods.chats import CHATS
from contrapose.publish.card import finish_run
from contrapose.publish.hub import Upload, push
from contrapose.train.settings import CONVERTER, Run


def test_adapters(api: Mock, hub: Hub, finished: Callable[[bool], Path]) -> None:
    folder = finished(False)
    assert push(folder, "me/aligned") == Upload(ADDRESS, 5, True, False)
    api.create_repo.assert_called_once_with("me/aligned", private=True, exist_ok=True)
    assert set(hub.uploaded()) == ALWAYS | {WEIGHTS}
    assert hub.uploaded()[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert not push(folder, "me/open", private=False).is_private
    assert hub.private == {"me/aligned": True, "me/open": False}


def test_a_whole_model(hub: Hub, finished: Callable[[bool], Path]) -> None:
    folder = finished(True)
    push(folder, "me/aligned")
    there = {path.relative_to(folder).as_posix() for path in (folder / "model").rglob("*") if path.is_file()}
    assert "model/model_index.json" in there
    assert set(hub.uploaded()) == ALWAYS | there


def test_pushed_again_nothing_is_uploaded_but_what_has_changed(api: Mock, hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    push(folder, "me/aligned")
    assert push(folder, "me/aligned", private=False) == Upload(ADDRESS, 0, True, False)
    assert api.create_commit.call_count == 1
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    before = hub.uploaded()
    assert push(folder, "me/aligned").num_new == 1
    changed = {name for name, content in hub.uploaded().items() if content != before[name]}
    assert changed == {"metrics.jsonl"}


def test_a_card_that_was_edited_stays(hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    push(folder, "me/aligned")
    hub.repos["me/aligned"]["README.md"] += b"Thanks to all.\n"
    assert push(folder, "me/aligned") == Upload(ADDRESS, 0, True, True)
    assert hub.uploaded()["README.md"].endswith(b"Thanks to all.\n")
    (folder / "README.md").write_text("---\ntags: [contrapose, lora]\n---\nmy own words\n")
    assert push(folder, "me/aligned") == Upload(ADDRESS, 1, True, False)
    assert hub.uploaded()["README.md"].endswith(b"my own words\n")
    # by an editor of another encoding
    (folder / "README.md").write_bytes(b"---\ntags: [contrapose, lora]\n---\ncr\xe8me\n")
    assert push(folder, "me/aligned") == Upload(ADDRESS, 1, True, False)
    assert hub.uploaded()["README.md"].endswith(b"cr\xe8me\n")


@pytest.mark.parametrize("full", [False, True])
def test_no_path_of_this_machine(hub: Hub, finished: Callable[[bool], Path], full: bool) -> None:
    folder = finished(full)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if full:
        config = json.loads((folder / "model" / "unet" / "config.json").read_text())
        before[folder / "model" / "unet" / "config.json"] = b"changed below"
        config["_name_or_path"] = str(folder.parent / "model")
        (folder / "model" / "unet" / "config.json").write_text(json.dumps(config))
    push(folder, "me/aligned")
    uploaded = hub.uploaded()
    assert [name for name, content in uploaded.items() if str(folder.parent).encode() in content] == []
    settings = yaml.safe_load(uploaded["run.yaml"])
    assert settings.pop("version") == runfile.VERSION
    run = CONVERTER.structure(settings, Run)
    assert (run.model, run.pairs) == ("model", Path("pairs"))
    if full:
        assert json.loads(uploaded["model/unet/config.json"]) == config | {"_name_or_path": "model"}
    assert all(path.read_bytes() == content for path, content in before.items() if content != b"changed below")


@pytest.mark.parametrize("full", [False, True])
def test_publishing_both_policies(api: Mock, hub: Hub, tmp_path: Path, full: bool) -> None:
    model, folder, policies = tiny.save("sd", tmp_path / "model"), tmp_path / "run", ("positive", "negative")
    backbone = load_backbone(model)
    (with_full(backbone, torch.float32, True, policies) if full else with_lora(backbone, 2, 4.0, policies)).save(folder)
    run = Run(str(model), tmp_path / "pairs", CHATS(), full=full).resolved()
    (folder / "run.yaml").write_text(runfile.to_yaml(run, CONVERTER))
    (folder / "finished.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("")
    (folder / "lagged").mkdir()
    (folder / "lagged" / "pytorch_lora_weights.safetensors").write_text("of no policy")
    push(folder, "me/aligned")
    weights = [path for policy in policies for path in (folder / policy).rglob("*") if path.is_file()]
    uploaded = hub.uploaded()
    assert set(uploaded) == ALWAYS | {path.relative_to(folder).as_posix() for path in weights}
    assert all(str(tmp_path).encode() not in content for content in uploaded.values())
    assert b"me/aligned" in uploaded["README.md"]
    for path in weights:
        path.unlink() if path.is_relative_to(folder / "negative") else None
    with pytest.raises(UserError, match="negative: holds no weights to upload"):
        push(folder, "me/aligned")
    assert api.create_commit.call_count == 1
    with pytest.raises(UserError, match=r"positive: is one policy of a run; name the run, .*run, which is used whole"):
        push(folder / "positive", "me/aligned")


def _as_it_was(folder: Path) -> None:
    """What a run of the versions before 0.1 lies like: other names, settings in no section, steps of one file each."""
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    settings |= settings.pop("loading")
    settings["optimisation"]["steps"] = settings["optimisation"].pop("train_steps")
    settings["first"]["first_steps"] = settings["first"].pop("first_train_steps")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    discard(folder / "checkpoints" / "step-000001")
    (folder / "checkpoints" / "step-000001.safetensors").write_text("large")


def test_a_run_of_an_earlier_version_says_what_its_settings_are_called_now(api: Mock, hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    now = (folder / "run.yaml").read_text()
    _as_it_was(folder)
    reasons = []
    for act in (lambda: finish_run(folder), lambda: push(folder, "me/aligned")):
        with pytest.raises(UserError, match=r"run.yaml: .*; correct run.yaml; where an earlier Contrapose") as refusal:
            act()
        reasons.append(str(refusal.value))
    for words in ("steps is now train_steps", "first_steps is now first_train_steps", "variant belongs under loading"):
        assert all(words in reason and "\n" not in reason for reason in reasons)
    assert not (folder / "README.md").exists()
    api.create_repo.assert_not_called()
    # with the names of today, its other files are read as they are
    (folder / "run.yaml").write_text(now)
    finish_run(folder)
    push(folder, "me/aligned")
    assert set(hub.uploaded()) == ALWAYS | {WEIGHTS}


def test_what_has_not_finished(api: Mock, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    (folder / "finished.json").unlink()
    with pytest.raises(UserError, match=r"has not finished; name a kept step of it, such as .*run@1$"):
        push(folder, "me/aligned")
    discard(folder / "checkpoints")
    with pytest.raises(UserError, match="has not finished"):
        push(folder, "me/aligned")
    (folder / "finished.json").write_text("{}")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="holds no weights to upload"):
        push(folder, "me/aligned")
    with pytest.raises(UserError, match="nowhere: no such run"):
        push(tmp_path / "nowhere", "me/aligned")
    with pytest.raises(UserError, match="model: holds no run of 'contrapose align', no merge and no adapters"):
        push(tmp_path / "model", "me/aligned")
    api.whoami.assert_not_called()
    api.create_repo.assert_not_called()


def test_the_card_is_the_repositorys(hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    finish_run(folder)
    line = {"step": 3, "loss": 0.6, "held_out/accuracy": 0.75, "held_out/accuracy@0.5": 0.8}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    push(folder, "me/aligned")
    card = hub.uploaded()["README.md"].decode()
    assert "load_lora_weights('me/aligned')" in card and "0.75" in card and "0.8" not in card


def test_the_licence_is_the_base_models_as_the_hub_has_it(api: Mock, hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "some/model"}))
    hub.repos["some/model"] = {"README.md": b"---\nlicense: mit\n---\n"}
    hub.private["some/model"] = False
    push(folder, "me/aligned")
    head = front_matter(hub.uploaded()["README.md"].decode())
    assert (head["base_model"], head["license"]) == ("some/model", "mit")


def test_push_from_the_command_line(
    api: Mock, hub: Hub, finished: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["push", str(finished(False)), "me/aligned", "--public"]
    assert main(line) == 0
    assert f"uploaded 5 files to {ADDRESS} (public)" in capsys.readouterr().out
    assert main(line) == 0
    assert f"{ADDRESS}: everything was there already (public)" in capsys.readouterr().out
    api.whoami.side_effect = LocalTokenNotFoundError("Token is required")
    assert main(line) == 2
    assert capsys.readouterr().err.splitlines() == [
        "contrapose: me/aligned: there is no token for the hub; log in with 'hf auth login', or set HF_TOKEN"
    ]
