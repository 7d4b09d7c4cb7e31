"""A finished run as a repository on the Hugging Face hub, without a path of this machine in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from contrapose import __version__, runfile
from contrapose.errors import UserError, one_line
from contrapose.publish.card import finished_run, published, without_folders, write_card
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import CARD, FINISHED, FULL_FOLDER, LORA_FILE, METRICS, PEFT_CONFIG, PEFT_FILE, RUN_FILE
from contrapose.train.folder import policy_folders
from contrapose.train.settings import CONVERTER, Run

_FILES = (CARD, RUN_FILE, FINISHED, METRICS)
_WEIGHTS = (LORA_FILE, PEFT_FILE)
# What the hub's client raises: its own errors, the system's, and those of its HTTP library, which changed with 1.0.
_ERRORS: tuple[type[BaseException], ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)


def check_access(repo: str) -> None:
    """Raise `UserError` unless there is a token whose user may write to `repo`; asked before anything is trained."""
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise UserError(f"{repo}: not the name of a repository; give it as user/name")
    with _one_line_errors(repo):
        validate_repo_id(repo)
        user = HfApi().whoami()
    names = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if owner not in names:
        raise UserError(f"{repo}: your token is {user['name']}'s, who may write to {', '.join(names)} alone")
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"{repo}: your token may only read; log in with one that may write ('hf auth login')")


def push(folder: Path, repo: str, private: bool = True, policies: Sequence[str] = ()) -> str:
    """Upload a run's card, settings, metrics and weights in one commit, and return the repository's address.

    `policies` are the folders of a run that has several. A new repository is private unless told otherwise; one that
    is there keeps its visibility and its other files.
    Raises `UserError` when the folder holds no weights, or the hub refuses or cannot be reached.
    """
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    for place in _places(folder, policies):
        files += _weights(place)
    contents = {path.relative_to(folder).as_posix(): _content(path, path.parent == folder) for path in files}
    with _one_line_errors(repo):
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.create_commit(repo, additions, commit_message=f"A run of Contrapose {__version__}")
    return str(address)


def publish(folder: Path, repo: str, private: bool = True) -> str:
    """Upload a finished run with a card that says where it is on the hub, and return the repository's address.

    Raises `UserError` as `finished_run` and `push` do; the card is written when nothing but the hub can refuse.
    """
    run = finished_run(folder)
    for place in _places(folder, policy_folders(run)):
        _weights(place)
    write_card(folder, run, RunFolder(folder).final_metrics(), repo)
    return push(folder, repo, private, policy_folders(run))


def _places(folder: Path, policies: Sequence[str]) -> list[Path]:
    """The folders that hold a run's weights."""
    return [folder / policy for policy in policies] or [folder]


def _weights(folder: Path) -> list[Path]:
    """The files of one policy's weights; `UserError` where there are none."""
    adapters = [folder / name for name in (*_WEIGHTS, PEFT_CONFIG) if (folder / name).is_file()]
    network = sorted(path for path in (folder / FULL_FOLDER).rglob("*") if path.is_file())
    # peft's settings alone are not weights
    if not network and not any(path.name in _WEIGHTS for path in adapters):
        raise UserError(f"{folder}: holds no weights to upload; has the run finished?")
    return [*adapters, *network]


def _content(path: Path, top: bool) -> bytes | str:
    """What is uploaded for a file: the file, by its path, or its text without the folders that it names."""
    if top and path.name == RUN_FILE:
        settings = published(runfile.read(path, Run, CONVERTER))
        return yaml.safe_dump(runfile.stamped(settings), sort_keys=False, allow_unicode=True).encode()
    if path.name == "model_index.json" or path.name.endswith("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        origins = {key: value for key, value in config.items() if key.endswith("name_or_path")}
        if without_folders(origins) != origins:
            return json.dumps(config | without_folders(origins), indent=2).encode()
    return str(path)


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
