"""Who may write where, which names are taken, and how the hub's refusals are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hub_in_memory import USER, Hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from contrapose.errors import UserError
from contrapose.publish.hub import check_access, push


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
        push(finished(False), "me/other")
    push(finished(True), "me/aligned")
    count = api.create_commit.call_count
    with pytest.raises(UserError, match="me/aligned: holds a whole model, and this is adapters; choose another name"):
        push(finished(False), "me/aligned")
    assert api.create_commit.call_count == count
    hub.create("me/empty", False, True)
    assert push(finished(False), "me/empty").num_new == 5


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
            push(finished(False), "me/aligned")
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
