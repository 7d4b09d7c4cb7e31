"""What goes to the hub and what stays here, with a hub in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import tiny
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)  # fmt: skip
from huggingface_hub.hf_api import ModelInfo
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training import with_full, with_lora

from contrapose import runfile
from contrapose.backbones.families.table import KOHYA_LAYOUTS, load_backbone
from contrapose.cli.main import main
from contrapose.documents import front_matter
from contrapose.errors import UserError
from contrapose.files import discard
from contrapose.guiding.merge import merge
from contrapose.guiding.settings import Merge
from contrapose.methods.chats import CHATS
from contrapose.methods.sft import SFT
from contrapose.publish.card import finish_run
from contrapose.publish.hub import Upload, check_access, publish
from contrapose.runs.kohya import convert
from contrapose.train.settings import CONVERTER, Run

ADDRESS = "https://huggingface.co/me/aligned"
USER = {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}}


class Hub:
    """What a hub has: repositories by name, each with its files."""

    def __init__(self, api: Mock, folder: Path):
        self.api = api
        self.folder = folder
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        api.whoami.return_value = USER
        api.model_info.side_effect = self.info
        api.create_repo.side_effect = self.create
        api.create_commit.side_effect = self.commit
        api.hf_hub_download.side_effect = self.download

    def info(self, repo: str, files_metadata: bool = False) -> ModelInfo:
        if repo not in self.repos:
            raise RepositoryNotFoundError("404 Client Error", response=Mock(status_code=404, headers={}))
        head = front_matter(self.repos[repo].get("README.md", b"").decode())
        files = []
        for name, content in self.repos[repo].items():
            sha = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": sha}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 9}
            files.append(entry)
        return ModelInfo(id=repo, private=self.private[repo], siblings=files, tags=head.get("tags", []), cardData=head)

    def create(self, repo: str, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.repos.setdefault(repo, {".gitattributes": b"*.safetensors filter=lfs"})
        self.private.setdefault(repo, private)
        return f"https://huggingface.co/{repo}"

    def commit(self, repo: str, operations: list[Any], commit_message: str) -> None:
        for operation in operations:
            with operation.as_file() as file:
                self.repos[repo][operation.path_in_repo] = file.read()

    def download(self, repo: str, name: str) -> str:
        (self.folder / name).write_bytes(self.repos[repo][name])
        return str(self.folder / name)

    def uploaded(self, repo: str = "me/aligned") -> dict[str, bytes]:
        """Files of a repository, but for those that the hub made itself."""
        return {name: content for name, content in self.repos[repo].items() if name != ".gitattributes"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The hub's client, which takes only calls that the real one takes."""
    fake = create_autospec(HfApi, instance=True)
    monkeypatch.setattr("contrapose.publish.hub.HfApi", lambda: fake)
    return fake


@pytest.fixture(autouse=True)
def hub(api: Mock, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(api, tmp_path_factory.mktemp("downloads"))


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
    return folder


ALWAYS = {"README.md", "run.yaml", "finished.json", "metrics.jsonl"}
WEIGHTS = "pytorch_lora_weights.safetensors"


def test_adapters(api: Mock, hub: Hub, finished: Callable[[bool], Path]) -> None:
    folder = finished(False)
    assert publish(folder, "me/aligned") == Upload(ADDRESS, 5, True, False)
    api.create_repo.assert_called_once_with("me/aligned", private=True, exist_ok=True)
    assert set(hub.uploaded()) == ALWAYS | {WEIGHTS}
    assert hub.uploaded()[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert not publish(folder, "me/open", private=False).is_private
    assert hub.private == {"me/aligned": True, "me/open": False}


def test_a_whole_model(hub: Hub, finished: Callable[[bool], Path]) -> None:
    folder = finished(True)
    publish(folder, "me/aligned")
    there = {path.relative_to(folder).as_posix() for path in (folder / "model").rglob("*") if path.is_file()}
    assert "model/model_index.json" in there
    assert set(hub.uploaded()) == ALWAYS | there


def test_pushed_again_nothing_is_uploaded_but_what_has_changed(api: Mock, hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    publish(folder, "me/aligned")
    assert publish(folder, "me/aligned", private=False) == Upload(ADDRESS, 0, True, False)
    assert api.create_commit.call_count == 1
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    before = hub.uploaded()
    assert publish(folder, "me/aligned").num_new == 1
    changed = {name for name, content in hub.uploaded().items() if content != before[name]}
    assert changed == {"metrics.jsonl"}


def test_a_card_that_was_edited_stays(hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    publish(folder, "me/aligned")
    hub.repos["me/aligned"]["README.md"] += b"Thanks to all.\n"
    assert publish(folder, "me/aligned") == Upload(ADDRESS, 0, True, True)
    assert hub.uploaded()["README.md"].endswith(b"Thanks to all.\n")
    (folder / "README.md").write_text("---\ntags: [contrapose, lora]\n---\nmy own words\n")
    assert publish(folder, "me/aligned") == Upload(ADDRESS, 1, True, False)
    assert hub.uploaded()["README.md"].endswith(b"my own words\n")


@pytest.mark.parametrize("full", [False, True])
def test_no_path_of_this_machine(hub: Hub, finished: Callable[[bool], Path], full: bool) -> None:
    folder = finished(full)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if full:
        config = json.loads((folder / "model" / "unet" / "config.json").read_text())
        before[folder / "model" / "unet" / "config.json"] = b"changed below"
        config["_name_or_path"] = str(folder.parent / "model")
        (folder / "model" / "unet" / "config.json").write_text(json.dumps(config))
    publish(folder, "me/aligned")
    uploaded = hub.uploaded()
    assert [name for name, content in uploaded.items() if str(folder.parent).encode() in content] == []
    settings = yaml.safe_load(uploaded["run.yaml"])
    assert settings.pop("version") == runfile.VERSION
    run = CONVERTER.structure(settings, Run)
    assert (run.model, run.pairs) == ("model", Path("pairs"))
    if full:
        assert json.loads(uploaded["model/unet/config.json"]) == config | {"_name_or_path": "model"}
    assert all(path.read_bytes() == content for path, content in before.items() if content != b"changed below")


# Who may write where


@pytest.mark.parametrize("repo", ["me/aligned", "lab/aligned"])
def test_access(api: Mock, repo: str) -> None:
    assert check_access(repo, "lora") is None
    api.create_repo.assert_not_called()


@pytest.mark.parametrize("repo", ["aligned", "me/", "/aligned", "me/a/b", "me/a..b", "me/a b", "me/" + "a" * 100])
def test_bad_names_are_told_before_the_hub_is_asked(api: Mock, repo: str) -> None:
    with pytest.raises(UserError, match="name"):
        check_access(repo, "lora")
    api.whoami.assert_not_called()


def _scoped(name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"type": "user", "name": name}, "permissions": list(permissions)}


def test_tokens_that_may_not_write(api: Mock) -> None:
    with pytest.raises(UserError, match="your token is me's, who may write to me, lab alone"):
        check_access("you/aligned", "lora")
    api.whoami.return_value = {"name": "me", "auth": {"accessToken": {"role": "read"}}}
    with pytest.raises(UserError, match="may only read"):
        check_access("me/aligned", "lora")
    api.whoami.return_value = {**USER, "orgs": [{"name": "lab", "roleInOrg": "read"}]}
    with pytest.raises(UserError, match="lab/aligned: you may only read what is lab's"):
        check_access("lab/aligned", "lora")


def test_fine_grained_tokens(api: Mock) -> None:
    scoped = [_scoped("me", "repo.content.read"), _scoped("lab", "repo.write"), _scoped("me/mine", "repo.write")]
    token = {"role": "fineGrained", "fineGrained": {"scoped": scoped}}
    api.whoami.return_value = {**USER, "auth": {"accessToken": token}}
    check_access("lab/aligned", "lora")
    check_access("me/mine", "lora")
    with pytest.raises(UserError, match="me/aligned: your fine-grained token may write to lab, me/mine alone"):
        check_access("me/aligned", "lora")


def test_names_that_are_taken(api: Mock, hub: Hub, finished: Callable[[bool], Path]) -> None:
    hub.create("me/other", True, True)
    hub.repos["me/other"] |= {"README.md": b"# mine", "model_index.json": b"{}"}
    with pytest.raises(UserError, match=r"me/other: is there already, with a model that is not Contrapose's \(model"):
        publish(finished(False), "me/other")
    publish(finished(True), "me/aligned")
    count = api.create_commit.call_count
    with pytest.raises(UserError, match="me/aligned: holds a whole model, and this is adapters; choose another name"):
        publish(finished(False), "me/aligned")
    assert api.create_commit.call_count == count
    hub.create("me/empty", False, True)
    assert publish(finished(False), "me/empty").num_new == 5


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
    for call in (api.create_commit, api.create_repo, api.model_info, api.whoami):
        call.side_effect = error
        with pytest.raises(UserError, match=naming) as told:
            publish(finished(False), "me/aligned")
        assert str(told.value).startswith("me/aligned: ")
        assert "\n" not in str(told.value)


def test_a_mistake_of_ours_is_not_the_hubs(api: Mock) -> None:
    api.whoami.side_effect = AttributeError("a typo")
    with pytest.raises(AttributeError):
        check_access("me/aligned", "lora")


def test_without_a_network_the_real_client_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("contrapose.publish.hub.HfApi", HfApi)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="hf auth login"):
        check_access("me/aligned", "lora")
    monkeypatch.setenv("HF_TOKEN", "nonsense")
    with pytest.raises(UserError, match="cannot be reached"):
        check_access("me/aligned", "lora")


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
    publish(folder, "me/aligned")
    weights = [path for policy in policies for path in (folder / policy).rglob("*") if path.is_file()]
    uploaded = hub.uploaded()
    assert set(uploaded) == ALWAYS | {path.relative_to(folder).as_posix() for path in weights}
    assert all(str(tmp_path).encode() not in content for content in uploaded.values())
    assert b"me/aligned" in uploaded["README.md"]
    for path in weights:
        path.unlink() if path.is_relative_to(folder / "negative") else None
    with pytest.raises(UserError, match="negative: holds no weights to upload"):
        publish(folder, "me/aligned")
    assert api.create_commit.call_count == 1
    with pytest.raises(UserError, match=r"positive: is one policy of a run; name the run, .*run, which is used whole"):
        publish(folder / "positive", "me/aligned")


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
    assert set(hub.uploaded()) == ALWAYS | {WEIGHTS}


def test_what_has_not_finished(api: Mock, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    (folder / "finished.json").unlink()
    with pytest.raises(UserError, match=r"has not finished; name a kept step of it, such as .*run@1$"):
        publish(folder, "me/aligned")
    discard(folder / "checkpoints")
    with pytest.raises(UserError, match="has not finished"):
        publish(folder, "me/aligned")
    (folder / "finished.json").write_text("{}")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="holds no weights to upload"):
        publish(folder, "me/aligned")
    with pytest.raises(UserError, match="nowhere: no such run"):
        publish(tmp_path / "nowhere", "me/aligned")
    with pytest.raises(UserError, match="model: holds no run of 'contrapose align', no merge and no adapters"):
        publish(tmp_path / "model", "me/aligned")
    api.whoami.assert_not_called()
    api.create_repo.assert_not_called()


def test_the_card_is_the_repositorys(hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    finish_run(folder)
    line = {"step": 3, "loss": 0.6, "held_out/accuracy": 0.75, "held_out/accuracy@0.5": 0.8}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    publish(folder, "me/aligned")
    card = hub.uploaded()["README.md"].decode()
    assert "load_lora_weights('me/aligned')" in card and "0.75" in card and "0.8" not in card


def test_the_licence_is_the_base_models_as_the_hub_has_it(api: Mock, hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "some/model"}))
    hub.repos["some/model"] = {"README.md": b"---\nlicense: mit\n---\n"}
    hub.private["some/model"] = False
    publish(folder, "me/aligned")
    head = front_matter(hub.uploaded()["README.md"].decode())
    assert (head["base_model"], head["license"]) == ("some/model", "mit")


# Kept steps, merges, files, and images


def _keep(folder: Path, step: int) -> None:
    kept = folder / "checkpoints" / f"step-{step:06d}"
    kept.mkdir(exist_ok=True)
    shutil.copy(folder / WEIGHTS, kept / WEIGHTS)


def test_a_kept_step(hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    (folder / "finished.json").unlink()
    _keep(folder, 1)
    lines = [{"step": 1, "held_out/accuracy": 0.25}, {"step": 2, "held_out/accuracy": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for named in ("run@1", "run@last"):
        publish(tmp_path / named, "me/aligned")
        assert set(hub.uploaded()) == {"README.md", "run.yaml", "metrics.jsonl", WEIGHTS}
        assert json.loads(hub.uploaded()["metrics.jsonl"]) == lines[0]
        card = hub.uploaded()["README.md"].decode()
        assert "step 1 of 200" in card and "0.25" in card
    with pytest.raises(UserError, match="step 7 is not kept"):
        publish(tmp_path / "run@7", "me/aligned")


def test_a_kept_step_of_a_run_in_full_has_no_pipeline(api: Mock, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=True)
    with pytest.raises(UserError, match=r"run@1: a kept step .* 'contrapose merge --model .* --positive .*run@1 --out"):
        publish(tmp_path / f"{folder.name}@1", "me/aligned")
    api.whoami.assert_not_called()


@pytest.mark.parametrize("full", [False, True])
def test_a_merge(hub: Hub, tmp_path: Path, full: bool) -> None:
    folder = _finish(tmp_path, full=False)
    stored = load_file(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as file:
        notes = file.metadata()
    save_file({name: torch.ones_like(value) for name, value in stored.items()}, folder / WEIGHTS, notes)
    merge(Merge(str(tmp_path / "model"), folder, scale=1.5, full=full), tmp_path / "merged")
    publish(tmp_path / "merged", "me/merged")
    uploaded = hub.uploaded("me/merged")
    written = {path.relative_to(tmp_path / "merged").as_posix() for path in (tmp_path / "merged").rglob("*.*")}
    assert set(uploaded) == {"README.md", *(name for name in written if not name.startswith("."))}
    card = uploaded["README.md"].decode()
    assert "- Strength w: 1.5" in card and "- Towards: run" in card and "\n\n\n" not in card
    assert ("DiffusionPipeline.from_pretrained('me/merged')" in card) is full
    assert ("load_lora_weights('me/merged')" in card) is not full
    assert all(str(tmp_path).encode() not in content for content in uploaded.values())
    assert publish(tmp_path / "merged", "me/merged").num_new == 0
    assert not (tmp_path / "merged" / "README.md").exists(), "a merge knows its own files"


def test_an_exported_file_alone_and_beside_its_run(hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    convert(folder, tmp_path / "mine.safetensors", KOHYA_LAYOUTS)
    publish(tmp_path / "mine.safetensors", "me/file")
    assert set(hub.uploaded("me/file")) == {"README.md", "mine.safetensors"}
    card = hub.uploaded("me/file")["README.md"].decode()
    assert "load_lora_weights('me/file', weight_name='mine.safetensors')" in card
    publish(folder, "me/aligned")
    of_run = hub.uploaded()["README.md"]
    assert publish(tmp_path / "mine.safetensors", "me/aligned") == Upload(ADDRESS, 1, True, False)
    assert hub.uploaded()["README.md"] == of_run
    assert "mine.safetensors" in hub.uploaded()


def test_images_of_a_folder_are_the_gallery(hub: Hub, tmp_path: Path) -> None:
    folder = _finish(tmp_path, full=False)
    (tmp_path / "drawn" / "00000" / "samples").mkdir(parents=True)
    (tmp_path / "drawn" / "00000" / "metadata.jsonl").write_text('{"prompt": "a red fox"}\n')
    Image.new("RGB", (4, 4)).save(tmp_path / "drawn" / "00000" / "samples" / "0000.png")
    publish(folder, "me/aligned", images=tmp_path / "drawn")
    name = "images/00000/samples/0000.png"
    assert hub.uploaded()[name] == (tmp_path / "drawn/00000/samples/0000.png").read_bytes()
    head = front_matter(hub.uploaded()["README.md"].decode())
    assert head["widget"] == [{"text": "a red fox", "output": {"url": name}}]
    with pytest.raises(UserError, match="pairs: holds no images; name a folder that 'contrapose sample' wrote"):
        publish(folder, "me/aligned", images=tmp_path / "pairs")


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
