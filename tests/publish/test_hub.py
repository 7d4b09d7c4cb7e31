"""What goes to the hub and what stays here, with a client that only remembers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import tiny
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from training import with_full, with_lora

from contrapose import runfile
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.files import discard
from contrapose.methods.chats import CHATS
from contrapose.methods.sft import SFT
from contrapose.publish.card import finish_run, write_card
from contrapose.publish.hub import check_access, publish, push
from contrapose.train.settings import CONVERTER, Run

ADDRESS = "https://huggingface.co/me/aligned"
USER = {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The hub's client, which takes only calls that the real one takes."""
    fake = create_autospec(HfApi, instance=True)
    fake.whoami.return_value = USER
    fake.create_repo.return_value = ADDRESS
    monkeypatch.setattr("contrapose.publish.hub.HfApi", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A folder as a finished run leaves it, made once for LoRA and once for full training."""
    made: dict[bool, Path] = {}

    def finish(full: bool) -> Path:
        if full not in made:
            made[full] = _finish(tmp_path_factory.mktemp("hub"), full)
        return made[full]

    return finish


def _finish(home: Path, full: bool) -> Path:
    model, folder = tiny.save("sd", home / "model"), home / "run"
    backbone = load_backbone(model)
    (with_full(backbone, torch.float32) if full else with_lora(backbone, 2, 4.0)).save(folder, {"base": "model"})
    run = Run(str(model), home / "pairs", SFT(), full=full).resolved()
    (folder / "run.yaml").write_text(runfile.to_yaml(run, CONVERTER))
    (folder / "finished.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "checkpoints" / "step-000001").mkdir(parents=True)
    (folder / "checkpoints" / "step-000001" / "training.safetensors").write_text("large")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_text("of this machine")
    write_card(folder, run, {}, "me/aligned")
    return folder


def _uploaded(api: Mock) -> dict[str, bytes]:
    (_, operations), _ = api.create_commit.call_args
    uploaded = {}
    for operation in operations:
        with operation.as_file() as file:
            uploaded[operation.path_in_repo] = file.read()
    return uploaded


ALWAYS = {"README.md", "run.yaml", "finished.json", "metrics.jsonl"}


def test_push_of_adapters(api: Mock, finished: Callable[[bool], Path]) -> None:
    folder = finished(False)
    assert push(folder, "me/aligned") == ADDRESS
    api.create_repo.assert_called_once_with("me/aligned", private=True, exist_ok=True)
    uploaded = _uploaded(api)
    assert set(uploaded) == ALWAYS | {"pytorch_lora_weights.safetensors"}
    weights = "pytorch_lora_weights.safetensors"
    assert uploaded[weights] == (folder / weights).read_bytes()
    push(folder, "me/aligned", private=False)
    assert api.create_repo.call_args.kwargs["private"] is False


def test_push_of_a_whole_model(api: Mock, finished: Callable[[bool], Path]) -> None:
    folder = finished(True)
    push(folder, "me/aligned")
    uploaded = _uploaded(api)
    there = {path.relative_to(folder).as_posix() for path in (folder / "model").rglob("*") if path.is_file()}
    assert "model/model_index.json" in there
    assert set(uploaded) == ALWAYS | there


@pytest.mark.parametrize("full", [False, True])
def test_no_path_of_this_machine(api: Mock, finished: Callable[[bool], Path], full: bool) -> None:
    folder = finished(full)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if full:
        config = json.loads((folder / "model" / "unet" / "config.json").read_text())
        before[folder / "model" / "unet" / "config.json"] = b"changed below"
        config["_name_or_path"] = str(folder.parent / "model")
        (folder / "model" / "unet" / "config.json").write_text(json.dumps(config))
    push(folder, "me/aligned")
    uploaded = _uploaded(api)
    assert [name for name, content in uploaded.items() if str(folder.parent).encode() in content] == []
    settings = yaml.safe_load(uploaded["run.yaml"])
    assert settings.pop("version") == runfile.VERSION
    run = CONVERTER.structure(settings, Run)
    assert (run.model, run.pairs) == ("model", Path("pairs"))
    if full:
        assert json.loads(uploaded["model/unet/config.json"]) == config | {"_name_or_path": "model"}
    assert all(path.read_bytes() == content for path, content in before.items() if content != b"changed below")


def test_push_of_an_unfinished_run(api: Mock, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: m")
    with pytest.raises(UserError, match="has the run finished"):
        push(tmp_path, "me/aligned")
    api.create_repo.assert_not_called()


@pytest.mark.parametrize("repo", ["me/aligned", "lab/aligned"])
def test_access(api: Mock, repo: str) -> None:
    check_access(repo)
    api.create_repo.assert_not_called()


@pytest.mark.parametrize("repo", ["aligned", "me/", "/aligned", "me/a/b", "me/a..b", "me/a b", "me/" + "a" * 100])
def test_bad_names_are_told_before_the_hub_is_asked(api: Mock, repo: str) -> None:
    with pytest.raises(UserError, match="name"):
        check_access(repo)
    api.whoami.assert_not_called()


def test_tokens_that_may_not_write(api: Mock) -> None:
    with pytest.raises(UserError, match="your token is me's, who may write to me, lab alone"):
        check_access("you/aligned")
    api.whoami.return_value = {"name": "me", "auth": {"accessToken": {"role": "read"}}}
    with pytest.raises(UserError, match="may only read"):
        check_access("me/aligned")


def _refusal(status: int) -> HfHubHTTPError:
    return HfHubHTTPError(f"{status} Client Error\n\nfor url", response=Mock(status_code=status, headers={}))


ERRORS = [
    (LocalTokenNotFoundError("Token is required"), "hf auth login"),
    (_refusal(401), "refuses your token"),
    (_refusal(403), "refuses your token"),
    (_refusal(500), "cannot be reached or refuses"),
    (OfflineModeIsEnabled("offline"), "cannot be reached"),
    (HfHubHTTPError.__bases__[0]("Name or service\nnot known"), "cannot be reached"),  # of the client's HTTP library
    (TimeoutError("timed out"), "cannot be reached"),
]


@pytest.mark.parametrize(("error", "naming"), ERRORS)
def test_errors_are_one_line(api: Mock, finished: Callable[[bool], Path], error: Any, naming: str) -> None:
    api.whoami.side_effect = api.create_repo.side_effect = api.create_commit.side_effect = error
    for act in (lambda: check_access("me/aligned"), lambda: push(finished(False), "me/aligned")):
        with pytest.raises(UserError, match=naming) as told:
            act()
        assert str(told.value).startswith("me/aligned: ")
        assert "\n" not in str(told.value)


def test_a_mistake_of_ours_is_not_the_hubs(api: Mock) -> None:
    api.whoami.side_effect = AttributeError("a typo")
    with pytest.raises(AttributeError):
        check_access("me/aligned")


def test_without_a_network_the_real_client_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="hf auth login"):
        check_access("me/aligned")
    monkeypatch.setenv("HF_TOKEN", "nonsense")
    with pytest.raises(UserError, match="cannot be reached"):
        check_access("me/aligned")


@pytest.mark.parametrize("full", [False, True])
def test_publishing_both_policies(api: Mock, tmp_path: Path, full: bool) -> None:
    model, folder, policies = tiny.save("sd", tmp_path / "model"), tmp_path / "run", ("positive", "negative")
    backbone = load_backbone(model)
    (with_full(backbone, torch.float32, True, policies) if full else with_lora(backbone, 2, 4.0, policies)).save(folder)
    run = Run(str(model), tmp_path / "pairs", CHATS(), full=full).resolved()
    (folder / "run.yaml").write_text(runfile.to_yaml(run, CONVERTER))
    (folder / "finished.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("")
    (folder / "lagged").mkdir()
    (folder / "lagged" / "pytorch_lora_weights.safetensors").write_text("of no policy")
    publish(folder, "me/aligned")
    weights = [path for policy in policies for path in (folder / policy).rglob("*") if path.is_file()]
    uploaded = _uploaded(api)
    assert set(uploaded) == ALWAYS | {path.relative_to(folder).as_posix() for path in weights}
    assert all(str(tmp_path).encode() not in content for content in uploaded.values())
    assert b"me/aligned" in uploaded["README.md"]
    for path in weights:
        path.unlink() if path.is_relative_to(folder / "negative") else None
    with pytest.raises(UserError, match="negative: holds no weights to upload"):
        publish(folder, "me/aligned")
    assert api.create_commit.call_count == 1


def _as_it_was(folder: Path) -> None:
    """What a run of the versions before 0.1 lies like: other names, settings in no section, steps of one file each."""
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    settings |= settings.pop("loading")
    settings["optimisation"]["steps"] = settings["optimisation"].pop("train_steps")
    settings["first"]["first_steps"] = settings["first"].pop("first_train_steps")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    discard(folder / "checkpoints" / "step-000001")
    (folder / "checkpoints" / "step-000001.safetensors").write_text("large")
    (folder / "README.md").unlink()


def test_a_run_of_an_earlier_version_says_what_its_settings_are_called_now(api: Mock, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    now = (folder / "run.yaml").read_text()
    _as_it_was(folder)
    reasons = []
    for act in (lambda: finish_run(folder), lambda: publish(folder, "me/aligned")):
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
    publish(folder, "me/aligned")
    assert set(_uploaded(api)) == ALWAYS | {"pytorch_lora_weights.safetensors"}


def test_publishing_what_has_not_finished_writes_no_card(api: Mock, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    (folder / "README.md").unlink()
    (folder / "finished.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        publish(folder, "me/aligned")
    (folder / "finished.json").write_text("{}")
    (folder / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights to upload"):
        publish(folder, "me/aligned")
    assert not (folder / "README.md").exists()
    api.create_repo.assert_not_called()


def test_publishing_writes_the_card_of_the_repository(api: Mock, finished: Callable[[bool], Path]) -> None:
    folder = finished(False)
    line = {"step": 3, "loss": 0.6, "held_out/accuracy": 0.75, "held_out/accuracy@0.5": 0.8}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    publish(folder, "me/aligned")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "me/aligned" in card and "0.75" in card and "0.8" not in card
    assert api.create_commit.call_count == 1
