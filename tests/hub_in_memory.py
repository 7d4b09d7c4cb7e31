"""A hub in memory, behind the client's own calls, and a folder as a finished run leaves it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import tiny
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from training import with_full, with_lora

from contrapose import runfile
from contrapose.backbones.families.table import load_backbone
from contrapose.documents import front_matter
from contrapose.methods.sft import SFT
from contrapose.train.settings import CONVERTER, Run

ADDRESS = "https://huggingface.co/me/aligned"
USER = {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}}
ALWAYS = {"README.md", "run.yaml", "finished.json", "metrics.jsonl"}
WEIGHTS = "pytorch_lora_weights.safetensors"


class Hub:
    """What a hub has: repositories by name, each with its files."""

    def __init__(self, api: Mock, folder: Path):
        self.folder = folder
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
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


def finish(home: Path, full: bool) -> Path:
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
