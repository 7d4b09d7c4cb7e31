"""Runs, merges and adapters as repositories on the Hugging Face hub, without a path of this machine in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import validate_repo_id

from contrapose import __version__
from contrapose.errors import UserError, one_line
from contrapose.publish.base import Base, base_of
from contrapose.publish.parcels import EXPORT, Parcel, parcel_of
from contrapose.runs.names import CARD
from contrapose.runs.seal import is_edited

_PIECE = 1 << 20  # bytes that are read at once
_OURS = "contrapose"  # the tag of our cards
_KINDS = ("full", "lora")
_OF_NOBODY = (".gitattributes", CARD, "LICENSE")  # files that the hub makes with a repository, or its owner does
# What the hub's client raises: its own errors, the system's, and those of its HTTP library, which changed with 1.0.
_ERRORS: tuple[type[BaseException], ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)


class Upload(NamedTuple):
    """Where something was uploaded, and how much of it was new."""

    address: str
    num_new: int
    """Files that were not there already."""
    is_private: bool
    keeps_card: bool
    """Whether a card that was edited on the hub was left as it is."""


def check_access(repo: str, kind: str) -> ModelInfo | None:
    """What is at `repo`, None where nothing is; asked before anything is trained or uploaded.

    Raises `UserError` unless there is a token whose user may write there, and where the name is taken: by another model
    than ours, or by weights of the other `kind`, full or lora.
    """
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise UserError(f"{repo}: not the name of a repository; give it as user/name")
    with _one_line_errors(repo):
        validate_repo_id(repo)
        api = HfApi()
        user = api.whoami()
    _check_rights(repo, owner, user)
    with _one_line_errors(repo):
        repository = None
        with suppress(RepositoryNotFoundError):
            repository = api.model_info(repo, files_metadata=True)
    if repository is not None:
        _check_kind(repo, repository, kind)
    return repository


def _check_rights(repo: str, owner: str, user: Mapping[str, Any]) -> None:
    """Raise `UserError` where the token may not write to the owner's repositories."""
    roles = {user["name"]: "admin"}
    for organisation in user.get("orgs", []):
        roles[organisation["name"]] = organisation.get("roleInOrg", "")
    if owner not in roles:
        raise UserError(f"{repo}: your token is {user['name']}'s, who may write to {', '.join(roles)} alone")
    if roles[owner] == "read":
        raise UserError(f"{repo}: you may only read what is {owner}'s; ask its owners, or push to {user['name']}/...")
    token = user.get("auth", {}).get("accessToken", {})
    fix = "log in with one that may write ('hf auth login')"
    if token.get("role") == "read":
        raise UserError(f"{repo}: your token may only read; {fix}")
    if token.get("role") == "fineGrained":
        writable = _writable(token.get("fineGrained", {}))
        if not writable & {owner, repo}:
            listed = ", ".join(sorted(writable)) or "nothing"
            raise UserError(f"{repo}: your fine-grained token may write to {listed} alone; {fix}")


def _writable(granted: Mapping[str, Any]) -> set[str]:
    """The owners and repositories that a fine-grained token may write to."""
    names: set[str] = set()
    for scope in granted.get("scoped", []):
        if "repo.write" in scope.get("permissions", []):
            names.add(str(scope.get("entity", {}).get("name")))
    return names


def _check_kind(repo: str, repository: ModelInfo, kind: str) -> None:
    """Raise `UserError` for a repository that holds something else."""
    names = [file.rfilename for file in repository.siblings or [] if file.rfilename not in _OF_NOBODY]
    tags = repository.tags or []
    fix = "choose another name"
    if names and _OURS not in tags:
        raise UserError(f"{repo}: is there already, with a model that is not Contrapose's ({names[0]}, ...); {fix}")
    other = next(name for name in _KINDS if name != kind)
    if names and other in tags and kind not in tags:
        called = {"full": "a whole model", "lora": "adapters"}
        raise UserError(f"{repo}: holds {called[other]}, and this is {called[kind]}; {fix}")


def push(named: Path, repo: str, private: bool = True, images: Path | None = None) -> Upload:
    """Upload a finished run, a kept step, a merge or a file of adapters in one commit, with a card.

    A new repository is private unless told otherwise; one that is there keeps its visibility, its other files, and a
    card that somebody edited there. `images` is a folder of `contrapose sample`'s for the gallery; a run's is of what
    it drew while it trained, where none is named. What is there already is not uploaded again.

    Raises `UserError` as `parcel_of` and `check_access` do before anything is uploaded, and where the hub refuses.
    """
    parcel = parcel_of(named, images)
    repository = check_access(repo, parcel.kind)
    on_hub: dict[str, RepoSibling] = {}
    if repository is not None:
        on_hub = {file.rfilename: file for file in repository.siblings or []}
    api = HfApi()
    with _one_line_errors(repo):
        keeps_card = repository is not None and CARD in on_hub and _keeps_card(api, repo, repository, parcel)
    files = dict(parcel.files)
    if not keeps_card:
        base = Base(None, {})
        if parcel.model is not None:
            base = base_of(parcel.model, partial(_card_on_hub, api))
        card = parcel.own_card or parcel.write_card(base, repo)
        files[CARD] = card.encode("utf-8", "surrogateescape")
    with _one_line_errors(repo):
        address = api.create_repo(repo, private=private, exist_ok=True)
        new = {name: content for name, content in files.items() if not _is_same(content, on_hub.get(name))}
        if new:
            additions: list[CommitOperationAdd] = []
            for name, content in new.items():
                # the client takes a file by its path, as text
                additions.append(CommitOperationAdd(name, str(content) if isinstance(content, Path) else content))
            api.create_commit(repo, additions, commit_message=f"Pushed by Contrapose {__version__}")
    is_private = private if repository is None else bool(repository.private)
    return Upload(str(address), len(new), is_private, keeps_card and not parcel.joins)


def _keeps_card(api: HfApi, repo: str, repository: ModelInfo, parcel: Parcel) -> bool:
    """Whether the card that is on the hub stays: one of a run that a file joins, and one that was edited there."""
    if parcel.joins and EXPORT not in (repository.tags or []):
        return True
    if parcel.own_card is not None:
        return False
    return is_edited(Path(api.hf_hub_download(repo, CARD)).read_text(encoding="utf-8"))


def _card_on_hub(api: HfApi, model: str) -> dict[str, Any]:
    """What the head of a model's card says on the hub; empty where it cannot be asked, since a card can do without."""
    with suppress(*_ERRORS):
        data = api.model_info(model).card_data
        return dict(data.to_dict()) if data is not None else {}
    return {}


def _is_same(content: Path | bytes, on_hub: RepoSibling | None) -> bool:
    """Whether the hub has this very file, by the digest that it knows it by: LFS's, or else git's."""
    if on_hub is None:
        return False
    if on_hub.lfs is not None:
        return _hashed("sha256", content) == on_hub.lfs.sha256
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return size == on_hub.size and _hashed("sha1", content, f"blob {size}\0".encode()) == on_hub.blob_id


def _hashed(algorithm: str, content: Path | bytes, before: bytes = b"") -> str:
    digest = hashlib.new(algorithm, before, usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _one_line_errors(repo: str) -> Iterator[None]:
    """Raise what the hub's client raises as a `UserError` of one line, with the fix."""
    try:
        yield
    except _ERRORS as error:
        raise UserError(f"{repo}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token for the hub; log in with 'hf auth login', or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"not a name that the hub takes: {one_line(error)}"
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"the hub refuses your token; log in with one that may write ('hf auth login'): {one_line(error)}"
    return f"the hub cannot be reached or refuses: {one_line(error)}"
