"""Arithmetic on what a loss knows of its positives: small arrays, on which a step calls some eighty operations.

On a CPU NumPy does them, whose calls cost a third of torch's; the arrays share the tensors' memory. Elsewhere torch
does them. What both spell alike (arithmetic, slices, ``reshape``, ``sum``) is written once, where it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A NumPy array or a tensor, as the namespace has them."""


SERIAL = 2**15 - 1
"""So few elements torch does not share out among its threads. On a busy machine each sharing waits for a thread that
does not run, which was seen to take a hundred times as long as the work."""


def at_once(x: Tensor) -> int:
    """How many of its elements to give an operation of torch on a CPU, at least 1."""
    return max(1, x.numel() if torch.get_num_threads() == 1 else min(x.numel(), SERIAL))


class NumPy:
    """On a CPU."""

    on_cpu = True

    def array(self, tensor: Tensor) -> np.ndarray:
        return tensor.numpy()

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def order(self, x: np.ndarray) -> np.ndarray:
        """Indices that sort along the last axis, ascending, equal ones in their order. Joins ascending runs."""
        return x.argsort(-1, kind="stable")

    def pick(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Along the last axis."""
        return x.take(index, -1)

    def inverse(self, permutation: np.ndarray) -> np.ndarray:
        inverse = np.empty_like(permutation)
        inverse[permutation] = np.arange(permutation.size)
        return inverse

    def running_sum(self, x: np.ndarray) -> np.ndarray:
        """Along the last axis, in place. torch's takes a third of the time; its threads would share out the rows."""
        for rows in [x] if x.size <= SERIAL else [x[i] for i in np.ndindex(x.shape[:-1])]:
            torch.from_numpy(rows).cumsum_(-1)
        return x

    def cast(self, x: np.ndarray, like: Tensor) -> Tensor:
        """Flat, in a tensor's type."""
        return torch.from_numpy(x.ravel().astype(like.numpy().dtype, copy=False))

    def zeros(self, *shape: int) -> np.ndarray:
        return np.zeros(shape)

    def add_at(self, x: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """One-dimensional x with the weights added where their index says."""
        return x + np.bincount(index, weight, x.size)

    def append(self, x: np.ndarray, value: float) -> np.ndarray:
        """Along the last axis of two."""
        longer = np.empty((len(x), x.shape[1] + 1))
        longer[:, :-1], longer[:, -1] = x, value
        return longer

    def join(self, rows: list[np.ndarray]) -> np.ndarray:
        """Along the first axis."""
        return np.concatenate(rows)

    def search(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """How many of an ascending x are below each value; all for NaN."""
        return x.searchsorted(values)

    def starts(self, runs: int, length: int) -> np.ndarray:
        """(runs, 1): the first index of each run of such a length."""
        return np.arange(runs)[:, None] * length


class Torch:
    """On any device."""

    on_cpu = False

    def __init__(self, device: torch.device):
        self._float = {"dtype": torch.float64, "device": device}

    def array(self, tensor: Tensor) -> Tensor:
        return tensor

    tensor = array

    def order(self, x: Tensor) -> Tensor:
        return x.argsort(dim=-1, stable=True)

    def pick(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(-1, index)

    def inverse(self, permutation: Tensor) -> Tensor:
        places = torch.arange(permutation.numel(), device=permutation.device)
        return torch.empty_like(permutation).index_copy_(0, permutation, places)

    def running_sum(self, x: Tensor) -> Tensor:
        return x.cumsum_(-1)

    def cast(self, x: Tensor, like: Tensor) -> Tensor:
        return x.flatten().to(like.dtype)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, **self._float)

    def add_at(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        return x.index_add(0, index, weight)

    def append(self, x: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1), value=value)

    def join(self, rows: list[Tensor]) -> Tensor:
        return torch.cat(rows)

    def search(self, x: Tensor, values: Tensor) -> Tensor:
        return torch.searchsorted(x, values)

    def starts(self, runs: int, length: int) -> Tensor:
        return torch.arange(runs, device=self._float["device"])[:, None] * length


_NUMPY = NumPy()


def arrays_on(device: torch.device) -> NumPy | Torch:
    return _NUMPY if device.type == "cpu" else Torch(device)
