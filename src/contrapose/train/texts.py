"""The texts of a run, read by all processes together: each its share of those that the cache of embeddings lacks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from contrapose.backbones.embeddings import Embeddings, Settled
from contrapose.processes import of_all, rank, together
from contrapose.progress import Progress, untold


def settle_together(
    embeddings: Embeddings, prompts: Callable[[], Iterable[str]], progress: Progress = untold
) -> Settled:
    """Have the embeddings of these prompts as `Embeddings.settle` does, for all processes to call together.

    Each reads its share of what is missing. Where machines have caches of their own, each process has then seen the
    share of its machine, whose processes share what is still missing there.

    Raises in all processes what one of them raises.
    """
    hosts = of_all(socket.gethostname())
    here = [number for number, host in enumerate(hosts) if host == hosts[rank()]]
    num_new = 0
    # alone in the end: one that does not see what another has written can do without it
    for number, of in ((rank(), len(hosts)), (here.index(rank()), len(here)), (0, 1)):
        with together():
            settled = embeddings.settle(prompts(), progress, number, of)
        num_new += settled.num_new
        if not any(of_all(settled.num_left)):
            break
    return settled._replace(num_new=sum(of_all(num_new)))
