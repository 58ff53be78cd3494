"""One training on several processes: each takes its share of every batch, and the gradients are added up.

All processes draw the same shuffles, negatives and dropout of events from the same seed, so that a batch is the one
that a single process would have seen; a share's loss is its part of the whole batch's, so that the sum of the shares'
gradients is the gradient of the whole batch, but for rounding. Dropout inside an encoder is the exception: it is
drawn in each process by itself. Started by `torchrun`, which says in the environment who is who.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgerec.errors import TrainingError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` equal ones. The first writes and prints."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of the n examples of a batch; parts differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces every gradient by the sum over all processes; one message. A missing one counts as zeros."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        with_gradient = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in with_gradient if parameter.grad is not None])
        distributed.all_reduce(flat)
        at = 0
        for parameter in with_gradient:
            assert parameter.grad is not None
            parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()

    def add(self, value: float) -> float:
        """The sum over all processes."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        total = torch.tensor([value], dtype=torch.float64, device=_device_of_messages())
        distributed.all_reduce(total)
        return float(total)

    def agree(self, value: float) -> float:
        """The first process's value: what is decided by it is decided alike."""
        return self.add(value if self.first else 0.0)

    def same_start(self, module: torch.nn.Module) -> None:
        """Gives every process the first one's parameters and buffers."""
        if self.size == 1:
            return
        from torch import distributed

        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)

    def own_noise(self, seed: int, steps: int) -> None:
        """Seeds what PyTorch draws in this process from now on, so that shares of a batch do not repeat each other."""
        if self.size > 1:
            import torch

            torch.manual_seed((seed * 1_000_003 + steps) * self.size + self.rank)


ALONE = Ranks()


@contextmanager
def started(device: str = "auto") -> Iterator[Ranks]:
    """The group of processes that `torchrun` started, or this process alone; ended on exit.

    NCCL where every process has a CUDA device of its own, else gloo. Raises TrainingError where the group does not
    come about.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    if not distributed.is_available():
        raise TrainingError("this PyTorch was built without torch.distributed", hint="train in one process")
    local, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    cuda = device != "cpu" and torch.cuda.is_available()
    own = cuda and torch.cuda.device_count() >= local_size
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        distributed.init_process_group("nccl" if own else "gloo")
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the processes did not find each other: {error}", hint="torchrun --nproc-per-node N -m edgerec train …"
        ) from error
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def _device_of_messages() -> str:
    from torch import distributed

    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
