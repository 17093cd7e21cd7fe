"""A GPU where there is none: a device whose tensors lie on the CPU, and which refuses what a GPU refuses.

Operations on tensors of the two devices raise, as do NumPy's on those of this one. So a test on it finds what was left
on the wrong device. It finds nothing that only a GPU's kernels do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "lazy"
"""A kind of device that torch knows everywhere and that nothing here uses. One of a new name would be an accelerator
for torch, and so for all later tests of the process."""

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
UNKNOWN_SIZE = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class OnIt(Tensor):
    """A tensor of the device.

    Args:
        held: its values, on the CPU.
    """

    @staticmethod
    def __new__(cls, held: Tensor) -> OnIt:
        as_it = {"dtype": held.dtype, "layout": held.layout, "strides": held.stride()}
        as_it["storage_offset"] = held.storage_offset()
        return Tensor._make_wrapper_subclass(cls, held.shape, device=f"{NAME}:0", **as_it)

    def __init__(self, held: Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"OnIt({self.held})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class PretendedGPU(TorchDispatchMode):
    """For the length of the context there is the device :data:`NAME`.

    Attributes:
        waits: how often it was asked for something that a CPU must wait for: a number, a copy, a size that hangs on
            values.
    """

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __enter__(self) -> PretendedGPU:
        _register()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=NAME) copies what it has made on the CPU
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        out = _run(func, args, kwargs or {})
        if any(isinstance(x, OnIt) for x in pytree.tree_leaves((args, kwargs))):
            indices = args[1] if func in INDEXING else ()
            by_mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)
            first = next(iter(pytree.tree_leaves(out)), None)
            is_told = first is not None and not isinstance(first, OnIt)
            self.waits += is_told or by_mask or func in UNKNOWN_SIZE
        return out


@functools.cache
def _register() -> None:
    import torch._lazy.ts_backend

    torch._lazy.ts_backend.init()


def _run(func: Any, args: Sequence, kwargs: dict) -> Any:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    _check(func, args, tensors)
    is_on_it = any(isinstance(x, OnIt) for x in tensors)
    goes_there = isinstance(args[0], OnIt) if func is aten.copy_.default else is_on_it
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held = pytree.tree_map_only(OnIt, lambda x: x.held, (args, kwargs))
    out = func(*held[0], **held[1])
    if not goes_there:
        return out
    out = pytree.tree_map_only(Tensor, OnIt, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if is_on_it else out


def _check(func: Any, args: Sequence, tensors: Sequence[Tensor]) -> None:
    if func in COPIES:
        return
    if func in INDEXING:  # indices may lie on the CPU, where what is indexed does not
        indices = [x for x in args[1] if isinstance(x, Tensor)] if not isinstance(args[0], OnIt) else []
        tensors = [args[0], *indices, *(x for x in args[2:3] if x.dim())]
    elif torch.Tag.pointwise in func.tags:  # a number may lie on the CPU
        tensors = [x for x in tensors if isinstance(x, OnIt) or x.dim()]
    if len({isinstance(x, OnIt) for x in tensors}) > 1:
        raise RuntimeError(f"{func}: tensors on {NAME}:0 and on cpu")
