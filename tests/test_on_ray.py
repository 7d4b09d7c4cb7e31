"""Workers on Ray: the bytes of one process, whoever of them is killed, and one line for what cannot be done.

On a local cluster of two CPUs, for which Ray has to be installed (`contrapose[ray]`); it is no part of `dev`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray_jobs

from contrapose import on_ray
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.on_ray import Crew, HowFar, Remark

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ON_CPUS = ["ray", "--resources", "CPU:1"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # which would write to the user's home
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where workers find ray_jobs
        options = {"num_cpus": 2, "resources": {"judge": 1}, "include_dashboard": False}
        ray.init("local", log_to_driver=False, logging_level=logging.ERROR, **options)
        yield
        ray.shutdown()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill_who_claims(out: Path, killed: list[int]) -> None:
    """Kill the first process that is seen to have claimed a shard."""
    until = time.monotonic() + 300
    while time.monotonic() < until and not killed:
        for claim in out.glob(".shard-*.claim"):
            try:
                process = json.loads(claim.read_text())["process"]
                os.kill(process, signal.SIGKILL)
            except (OSError, ValueError):
                continue  # it has just gone, or is being written
            killed.append(process)
            return
        time.sleep(0.005)


def test_a_worker_is_killed_and_the_folder_is_that_of_one_process(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["pairs", "draw", "--model", str(tiny_model), "--prompts", str(prompts_file), "--steps", "10"]
    line += ["--device", "cpu", "--shard-size", "1"]
    killed: list[int] = []
    killer = threading.Thread(target=kill_who_claims, args=(tmp_path / "shared", killed))
    killer.start()
    assert main([*ON_CPUS, "--", *line, "--out", str(tmp_path / "shared")]) == 0
    killer.join()
    said = capfd.readouterr()
    assert killed and "was lost, and is started again" in said.err
    assert "pairs draw: 2 workers, each with CPU:1" in said.out
    assert "drawing pairs: 12/12" in said.err
    assert main([*line, "--out", str(tmp_path / "alone")]) == 0
    assert content(tmp_path / "shared") == content(tmp_path / "alone")


def test_a_worker_refuses_in_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = ["pairs", "draw", "--model", "m", "--prompts", "p.txt", "--out", str(tmp_path / "out"), "--seed", "x"]
    assert main(["ray", "--resources", "judge:1", "--", *line]) == 2
    message = capfd.readouterr().err
    assert "--seed" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("resources", ["GPU:1", "CPU:3", "painter:1"])
def test_what_no_machine_has_is_told(resources: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ray", "--resources", resources, "--workers", "2", "--", "sample"]) == 2
    message = capfd.readouterr().err
    assert f"resources {resources}: no machine of the cluster has them; one has at most CPU:2, judge:1" in message


def test_one_that_is_lost_before_it_comes_any_further_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_MOST_LOSSES", 2)
    monkeypatch.chdir(tmp_path)
    needs = {"CPU": 1.0}
    news = list(Crew(partial(ray_jobs.killed_at, 1, tmp_path / "a"), needs, 1).work())
    assert [type(item) for _, item in news] == [Remark, HowFar, Remark]
    assert news[-1] == (0, Remark(f"in {tmp_path}"))
    with pytest.raises(UserError, match=r"worker 1 of 1.* was lost 2 times"):
        list(Crew(partial(ray_jobs.killed_at, 2, tmp_path / "b"), needs, 1).work())
