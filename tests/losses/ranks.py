"""Several processes that talk to each other by gloo, as several GPUs' do."""

from __future__ import annotations

import datetime
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

PATIENCE = 400
"""Seconds; a busy machine takes minutes to start four processes."""


def check_in_ranks(check: Callable[..., None], processes: int, *args: Any) -> None:
    """Call ``check(rank, *args)``, a function of a module, in each of some new processes of one group, and fail with
    the first traceback of theirs."""
    with tempfile.TemporaryDirectory() as folder:
        _check(check, processes, f"file://{folder}/meet", args)


def _check(check: Callable[..., None], processes: int, place: str, args: tuple[Any, ...]) -> None:
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    children = [
        context.Process(target=_work, args=(check, rank, processes, place, results, args)) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
    stuck = [child for child in children if child.is_alive()]
    for child in stuck:
        child.kill()
    problems = []
    while not results.empty():
        problems.append(results.get())
    assert not problems, problems[0]
    assert not stuck and all(child.exitcode == 0 for child in children)


def _work(check, rank, processes, place, results, args):
    torch.set_num_threads(1)
    try:
        timeout = datetime.timedelta(seconds=300)
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=processes, timeout=timeout)
        check(rank, *args)
        dist.barrier()  # gloo does not survive a peer that leaves first
        dist.destroy_process_group()
        os._exit(0)  # the interpreter's own end now and then finds threads of gloo, and aborts
    except Exception:
        results.put(traceback.format_exc())
        os._exit(1)
