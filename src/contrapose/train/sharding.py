"""Networks in shards: each process holds a share of every weight, and gathers one block of layers when it computes.

What is trained, its gradients and moments, averages and frozen copies are all in shards, by torch's `fully_shard`.
A block is gathered by all processes at once, so that each has to call the networks as often as the others. The first
process alone reads the networks; the others build them without values, and get their shards from it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrapose.backbones.networks import Network
from contrapose.backbones.policies import Policies
from contrapose.errors import UserError
from contrapose.processes import LONGEST_WAIT, of_all, rank
from contrapose.tensors import cut_as
from contrapose.train.settings import Run
from contrapose.train.sharding_settings import Sharding

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

log = logging.getLogger(__name__)
_TESTED = (2, 13)
"""The first torch that this was tested with; earlier ones add up otherwise, or refuse adapters in float32."""


def check_sharding(sharding: Sharding, num_processes: int) -> None:
    """Raise `UserError` for a torch that shards otherwise, and for processes that are no multiple of the shards.

    A process alone is told that it holds all there is.
    """
    if sharding.shard == "none":
        return
    if num_processes == 1:
        log.info("shard: there is one process, which holds the networks whole")
        return
    sharding.check_processes(num_processes)
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _TESTED:
        needed = ".".join(map(str, _TESTED))
        raise UserError(f"shard: needs torch {needed} or later, and this is {version}; run 'pip install -U torch'")


def shard(policies: Policies, run: Run, dtype: torch.dtype, accelerator: Accelerator) -> None:
    """Cut the networks of all policies up over the processes, in place; their values are those of the first process.

    Gradients are sums over processes, as in a run that is not sharded. `dtype` is what the networks compute in: a
    network that is trained in float32 is gathered in it, its norms and tables too, and so are its frozen copies.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    device = accelerator.device
    num_shards = run.sharding.num_shards(accelerator.num_processes)
    num_replicas = accelerator.num_processes // num_shards
    mesh = mesh_of(device.type, num_replicas, num_shards)
    # inputs are left alone, as times lose their last digits in half precision: autocast knows what to cast
    precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    if run.full and dtype != torch.float32:
        precision = replace(precision, param_dtype=dtype, reduce_dtype=torch.float32)
    objective = run.objective()
    moved = [policies.denoiser(policy) for policy in (*objective.trained, *objective.moving)]
    for network in policies.networks():
        offload = OffloadPolicy()
        if run.sharding.shard == "offload" and all(network is not each for each in moved):
            offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
        values = _taken_out(network)
        # inner ones first, as what they hold is then no part of what is around them
        for module in (*reversed(blocks(network)), network):
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=True,  # of the whole network too: between two calls, all of it is in shards
                mp_policy=precision,
                offload_policy=offload,
            )
        for module in filter(lambda part: isinstance(part, FSDPModule), network.modules()):
            # a sum is plain on every backend: gloo has no other one that is not divided
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        network.to_empty(device="cpu" if isinstance(offload, CPUOffloadPolicy) else device)
        _put_in(network, values, device)
    policies.take_parameters()


def mesh_of(device_type: str, num_replicas: int, num_shards: int) -> DeviceMesh:
    """The processes by their copy and their shard; by their shard alone where there is one copy.

    Each group of them waits for one another as long as all processes do: torch would give those that it makes itself
    ten minutes on GPUs.
    """
    from torch.distributed import new_subgroups_by_enumeration
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

    if num_replicas == 1:
        return init_device_mesh(device_type, (num_shards,), mesh_dim_names=("shards",))
    # neighbours hold the shards of one another, as processes of one machine are neighbours
    ranks = torch.arange(num_replicas * num_shards).view(num_replicas, num_shards)
    of_shard, _ = new_subgroups_by_enumeration(ranks.T.tolist(), timeout=LONGEST_WAIT)
    of_copy, _ = new_subgroups_by_enumeration(ranks.tolist(), timeout=LONGEST_WAIT)
    return DeviceMesh.from_group([of_shard, of_copy], device_type, ranks, mesh_dim_names=("replicas", "shards"))


def blocks(network: Network) -> list[nn.Module]:
    """What is gathered at once: the parts that diffusers says are not to be split, which may hold one another."""
    kinds = set(network._no_split_modules or ())
    return [module for module in network.modules() if type(module).__name__ in kinds]


def _taken_out(network: Network) -> dict[str, Tensor]:
    """The values of a network by name, which is left without any; of processes other than the first, nothing."""
    values = {name: tensor.detach() for name, tensor in _tensors(network).items()}
    forms = [(name, tensor.shape, tensor.dtype) for name, tensor in values.items()]
    assert all(other == forms for other in of_all(forms)), "all processes build one network"
    network.to("meta")
    return values if rank() == 0 else {}


@torch.no_grad()
def _put_in(network: Network, values: dict[str, Tensor], device: torch.device) -> None:
    """Give each process its shards of the first one's values, which are let go one after another."""
    for name, tensor in _tensors(network).items():
        if rank() == 0:
            in_one_piece = values.pop(name).to(device)
        else:
            in_one_piece = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        torch.distributed.broadcast(in_one_piece, src=0)
        tensor.copy_(cut_as(in_one_piece, tensor))
    for buffer in network.buffers():
        buffer.data = buffer.data.to(device)  # which are whole, and not offloaded


def _tensors(network: Network) -> dict[str, Tensor]:
    """All that a network computes with, by name."""
    return dict(chain(network.named_parameters(), network.named_buffers()))
