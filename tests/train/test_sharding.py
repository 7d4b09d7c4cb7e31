"""Which processes share the shards of a network, and how long they wait for one another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from contrapose.train.sharding import mesh_of


@pytest.fixture
def third_of_four() -> Iterator[None]:
    """This process is one of four, of which the others do not exist."""
    distributed.init_process_group("fake", rank=2, world_size=4, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("third_of_four")
def test_groups_of_processes_wait_as_long_as_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    new_group = distributed.distributed_c10d.new_group
    waits: list[timedelta | None] = []

    def noted(*args: Any, timeout: timedelta | None = None, **named: Any) -> Any:
        waits.append(timeout)
        return new_group(*args, timeout=timeout, **named)

    for module in (distributed.distributed_c10d, distributed.device_mesh):
        monkeypatch.setattr(module, "new_group", noted)
    mesh = mesh_of("cpu", num_replicas=2, num_shards=2)
    members = {group: distributed.get_process_group_ranks(mesh.get_group(group)) for group in ("replicas", "shards")}
    assert members == {"replicas": [0, 2], "shards": [2, 3]}
    assert waits == [timedelta(hours=2)] * 4


@pytest.mark.usefixtures("third_of_four")
def test_one_copy_is_shared_by_all() -> None:
    mesh = mesh_of("cpu", num_replicas=1, num_shards=4)
    assert mesh.mesh_dim_names == ("shards",) and mesh.get_group() == distributed.group.WORLD
