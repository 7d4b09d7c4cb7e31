"""Workers on Ray: the bytes of one process, whoever of them is killed, and one line for what cannot be done.

On a local cluster of two CPUs, which takes `contrapose[ray]`. Where Ray cannot start one, all of this is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray_jobs

from contrapose import on_ray
from contrapose.cli import ray_worker
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.on_ray import Crew, HowFar, Remark, connected

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="contrapose[ray] is not installed"),
]
ON_CPUS = ["ray", "--resources", "CPU:1"]
CPU = {"CPU": 1.0}
LONGEST_START = 180  # seconds; a start is a few of one core

# A process of its own, as Ray may hang or take the process with it where it cannot start.
CLUSTER = """
import sys
import ray
options = {"num_cpus": 2, "resources": {"judge": 1}, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = ray.init("local", log_to_driver=False, _temp_dir=sys.argv[1], **options)
print(cluster.address_info["gcs_address"], flush=True)
sys.stdin.read()  # which ends with the tests, however they end
"""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # kills no worker where the machine's memory is nearly full
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # processes for the cluster's own, which starts no worker
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where workers find ray_jobs
        with started() as address, connected(address):
            yield


@contextmanager
def started() -> Iterator[str]:
    """The address of a cluster that ends with this context; skips where Ray cannot start one, with its reason."""
    # not under tmp_path, which is too long for the names of sockets
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        line = [sys.executable, "-c", CLUSTER, folder]
        with (
            log.open("w") as said,
            subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as process,
        ):
            assert process.stdin and process.stdout
            try:
                has_answered, *_ = select.select([process.stdout], [], [], LONGEST_START)
                address = process.stdout.readline().strip() if has_answered else ""
                if not address:
                    waited = "" if has_answered else f" in {LONGEST_START} seconds"
                    pytest.skip(f"Ray starts no cluster here{waited}: {last_line(log)}")
                yield address
                process.stdin.close()
                assert process.wait(60) == 0
            finally:
                process.kill()


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


def drawing(model: Path, prompts: Path, steps: int) -> list[str]:
    line = ["pairs", "draw", "--model", str(model), "--prompts", str(prompts), "--steps", str(steps)]
    return [*line, "--device", "cpu", "--shard-size", "1"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_command_makes_the_folder_of_one_process_though_its_worker_is_lost(
    tiny_model: Path,
    prompts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is lost before it imports anything, as a second import of all libraries would be most of this test."""
    line = drawing(tiny_model, prompts_file, steps=2)
    monkeypatch.setattr(ray_worker, "run_as_worker", partial(ray_jobs.run_when_killed_once, tmp_path / "death"))
    monkeypatch.chdir(tmp_path)
    assert main([*ON_CPUS, "--workers", "1", "--", *line, "--out", "by worker"]) == 0
    said = capfd.readouterr()
    assert "pairs draw: 1 worker with CPU:1" in said.out
    assert "was lost, and is started again" in said.err
    assert "drawing pairs: 12/12" in said.err
    assert main([*line, "--out", "alone"]) == 0
    assert content(tmp_path / "by worker") == content(tmp_path / "alone")


def test_workers_share_a_folder_and_one_is_killed_while_it_holds_a_file(tmp_path: Path) -> None:
    out, notes = tmp_path / "out", tmp_path / "notes"
    notes.mkdir()
    job = partial(ray_jobs.make_files, out, notes, tmp_path / "death")
    news = list(Crew(job, CPU, 2).work())
    [(number, remark)] = [(number, item.text) for number, item in news if isinstance(item, Remark)]
    assert number == 1 and re.fullmatch(r"worker 2 of 2( on \S+)? was lost, and is started again", remark)
    assert any(isinstance(item, HowFar) for _, item in news)
    assert content(out) == {f"{index}.txt": str(index).encode() for index in range(ray_jobs.NUM_FILES)}
    noted = [path.name.split(" by ") for path in notes.iterdir()]
    assert sorted(int(index) for index, _ in noted) == list(range(ray_jobs.NUM_FILES))
    assert {number for _, number in noted} == {"0", "1"}


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


@pytest.mark.exhaustive
def test_one_of_two_that_draw_is_killed_in_the_middle(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = drawing(tiny_model, prompts_file, steps=10)
    killed: list[int] = []
    killer = threading.Thread(target=kill_who_claims, args=(tmp_path / "shared", killed))
    killer.start()
    assert main([*ON_CPUS, "--", *line, "--out", str(tmp_path / "shared")]) == 0
    killer.join()
    said = capfd.readouterr()
    assert killed and "was lost, and is started again" in said.err
    assert "pairs draw: 2 workers, each with CPU:1" in said.out
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


def test_one_that_is_lost_before_it_comes_any_further_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_MOST_LOSSES", 2)
    with pytest.raises(UserError, match=r"worker 1 of 1.* was lost 2 times"):
        list(Crew(ray_jobs.killed, CPU, 1).work())
