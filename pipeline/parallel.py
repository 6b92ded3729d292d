"""Several processes that work on one cell: one per GPU of a node or of several nodes, or on CPUs.

``torchrun --nproc-per-node 2 -m pipeline run CONFIG``, or the tasks of a SLURM step (``srun``, submitit). The first
rank does what a process alone would do: it reads the config, claims cells, writes, prints. The others wait, and join in
where it shares a cell with them. A process alone needs nothing of torch.distributed and imports nothing of it.

A rank that fails must not leave the others waiting. Every collective begins with a word of agreement, a sum of one
number; a rank that fails says so in place of its next one, and all leave the cell together, still in step, for the next
cell. A rank that dies closes its connections, which ends the others; one that only hangs ends them after ``PATIENCE``.

A signal to one rank has to stop all of them at the same place. The word of agreement carries it: after a collective all
know the same of :attr:`Ranks.asked`, and only that decides. In a shared cell a signal does nothing else (see
:func:`pipeline.stopping.polled`), so that no rank leaves in the middle of a collective.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline import stopping
from pipeline.errors import InputError, StageError

if TYPE_CHECKING:
    from torch import Tensor

JOINING = timedelta(minutes=5)  # all processes of a step start within
PATIENCE = timedelta(hours=1)  # more than one initialisation on a large dev split takes
FOREVER = timedelta(days=365)  # the first rank may work on other cells alone
FIRST_PORT, PORTS = 20000, 12000  # below the ports that Linux hands out by itself


class PeerFailedError(StageError):
    """Another rank failed in this cell; all left it together."""


class LostRanksError(StageError):
    """The ranks cannot reach each other any more; each of them ends."""


@dataclass(frozen=True)
class Place:
    """This process among those of its run: its rank, how many there are, its number on its node, where they meet."""

    rank: int
    size: int
    local: int
    host: str
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """What torchrun or, where it did not, SLURM says; ``None`` for a process alone.

        A SLURM step counts, not a job: a batch script is a single process, however many tasks its job may start.

        Raises:
            InputError: there are others and nothing says where to meet.

        """
        given = environment
        if "RANK" in given and "WORLD_SIZE" in given:
            rank, size, local = int(given["RANK"]), int(given["WORLD_SIZE"]), int(given.get("LOCAL_RANK", "0"))
        else:
            rank, size = int(given.get("SLURM_PROCID", "0")), int(given.get("SLURM_STEP_NUM_TASKS", "1"))
            local = int(given.get("SLURM_LOCALID", "0"))
        if size == 1:
            return None
        nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST")
        host = given.get("MASTER_ADDR") or (first_host(nodes) if nodes else given.get("SLURM_LAUNCH_NODE_IPADDR"))
        port, job = given.get("MASTER_PORT"), given.get("SLURM_JOB_ID")
        if not host or not (port or job):
            raise InputError(
                f"rank {rank} of {size} processes, but nothing says where they meet; "
                f"start them with torchrun or srun, or set MASTER_ADDR and MASTER_PORT"
            )
        return cls(rank, size, local, host, int(port) if port else FIRST_PORT + int(job or 0) % PORTS)


def first_host(nodes: str) -> str:
    """The first name of SLURM's list: ``gpu[07-09,12],login`` begins with ``gpu07``."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


class Ranks:
    """The processes of a run as one of them sees them; this class itself is a process alone.

    Args:
        rank: this process; 0 is the first.
        size: how many there are.

    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def asked(self) -> str | None:
        """The signal that asked to stop; of several ranks, the same on all, and known since their last collective."""
        return stopping.requested()

    def say(self, text: str) -> None:
        """A line on standard error, once."""
        if self.first:
            print(text, file=sys.stderr)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one type and device by their sums over all ranks, equal on all to the last bit.

        Raises:
            PeerFailedError: another rank failed.
            LostRanksError: another rank is gone.

        """

    def share(self, value: Any) -> Any:
        """The first rank's value, on all of them; raises as :meth:`sum_`."""
        return value

    def tell(self, order: Any) -> None:
        """Tells the others what to do next; the first rank's part of :meth:`told`."""

    def told(self) -> Any:
        """What the first rank says next, however long that takes."""

    @contextmanager
    def cell(self) -> Iterator[None]:
        """Around the work on a shared cell: it ends well on all ranks, or it raises on all.

        ``Stopped`` is for all of them to raise at once, by :attr:`asked`.
        """
        yield


class Joined(Ranks):
    """Ranks that have met."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.rank, place.size)
        self._asked: str | None = None
        import torch
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        self._torch, self._distributed = torch, distributed
        if torch.cuda.is_available():
            torch.cuda.set_device(place.local % torch.cuda.device_count())  # SLURM may show each task its own alone
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        with stopping.unheard(), self._connected("could not meet the others"):
            store, *_ = next(rendezvous(f"tcp://{place.host}:{place.port}", place.rank, place.size, timeout=JOINING))
            distributed.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.size, timeout=PATIENCE
            )
            self._words: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
            self._orders: Any = distributed.new_group(backend="gloo", timeout=FOREVER)

    @property
    def asked(self) -> str | None:
        """See :class:`Ranks`."""
        return self._asked

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See :class:`Ranks`; one message."""
        self._agree(None)
        with self._connected():
            flat = self._torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def share(self, value: Any) -> Any:
        """See :class:`Ranks`."""
        self._agree(None)
        return self._broadcast(value, self._words)

    def tell(self, order: Any) -> None:
        """See :class:`Ranks`."""
        self._broadcast(order, self._orders)

    def told(self) -> Any:
        """See :class:`Ranks`."""
        return self._broadcast(None, self._orders)

    @contextmanager
    def cell(self) -> Iterator[None]:
        """See :class:`Ranks`."""
        with stopping.polled():
            try:
                yield
                self._agree(None)
            except (PeerFailedError, LostRanksError):
                raise
            except Exception as error:
                with suppress(LostRanksError):  # whoever speaks to them next will say so
                    self._agree(f"{error}" if isinstance(error, InputError | StageError) else f"{error!r}")
                raise

    def close(self) -> None:
        """Sends the others home; afterwards nobody waits for anybody."""
        with stopping.polled():
            if self.first:
                self.tell(None)
            with self._connected():
                self._distributed.barrier(self._words)
                self._distributed.destroy_process_group()

    def _agree(self, failure: str | None) -> None:
        """Whether all ranks are well, and which signal they got; raises on those that are where another is not."""
        heard = stopping.requested()
        with self._connected():
            words = [failure is not None, *(name == heard for name in stopping.SIGNALS)]
            counts = self._torch.tensor(words, dtype=self._torch.int32)
            self._distributed.all_reduce(counts, group=self._words)
            failed, *asked = counts.tolist()
            self._asked = next((name for name, count in zip(stopping.SIGNALS, asked, strict=True) if count), None)
            if not failed:
                return
            reasons: list[str | None] = [None] * self.size
            self._distributed.all_gather_object(reasons, failure, group=self._words)
        if failure is None:
            raise PeerFailedError("; ".join(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason))

    def _broadcast(self, value: Any, group: Any) -> Any:
        box = [value]
        with self._connected():
            self._distributed.broadcast_object_list(box, src=0, group=group)
        return box[0]

    @contextmanager
    def _connected(self, what: str = "lost the others") -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise LostRanksError(
                f"rank {self.rank} of {self.size} {what} ({reason}); "
                f"their output says why. What was saved stays: the same command goes on from it"
            ) from error


@contextmanager
def gathered() -> Iterator[Ranks]:
    """The ranks of this run, as the environment describes them.

    Raises:
        InputError: there are others and nothing says where to meet.
        LostRanksError: they did not come, or left.

    """
    place = Place.of(os.environ)
    if place is None:
        yield Ranks()
        return
    ranks = Joined(place)
    with nullcontext() if ranks.first else stopping.polled():  # the others wait for the first one, in a collective
        try:
            yield ranks
        except LostRanksError:
            raise
        # Not KeyboardInterrupt: it may come in the middle of a collective, where the others would misread what follows.
        except (Exception, stopping.Stopped):
            with suppress(LostRanksError):
                ranks.close()
            raise
        ranks.close()
