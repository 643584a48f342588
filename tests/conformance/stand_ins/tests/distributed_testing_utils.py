"""Stand-in for transformers' tests/distributed_testing_utils.py: ranks are processes of this machine that talk by gloo."""

import functools
import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    pass


def _start_rank_processes(function, args: tuple, nprocs: int) -> None:
    """Runs `function(rank, *args)` in `nprocs` fresh processes and raises what the first failing one raised."""
    mp.spawn(_run_and_leave, args=(function, args), nprocs=nprocs)


def _run_and_leave(rank: int, function, args: tuple) -> None:
    function(rank, *args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the threads of a finished checkpoint sometimes abort an orderly exit


def _run_rank(rank: int, function, world_size: int, rendezvous: str, args: tuple, kwargs: dict) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    function(rank, *args, **kwargs)
    dist.barrier()
    dist.destroy_process_group()


def run_distributed(world_size: int):
    """Decorator: calls the function once on each of `world_size` ranks, with the rank as its first argument."""

    def decorate(function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            with tempfile.TemporaryDirectory() as folder:
                rendezvous = os.path.join(folder, "rendezvous")
                _start_rank_processes(_run_rank, (function, world_size, rendezvous, args, kwargs), world_size)

        return run

    return decorate
