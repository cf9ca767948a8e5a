"""A device that is not the CPU, on any machine: its tensors are a type of their own, and it has no float64, as MPS.

Every operation on its tensors runs on the CPU tensors inside. As on a real device, an operation on tensors of two
devices is refused, and so are ``numpy`` and a result of float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_MOVES = ("aten::_to_copy", "aten::copy_", "aten::set_")


class _Far(torch.Tensor):
    """A tensor of the device; ``near`` is the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, near: torch.Tensor):
        if near.dtype == torch.float64:
            raise TypeError("Cannot convert a tensor of this device to float64, as it has none")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=_device(),
            requires_grad=near.requires_grad,
        )
        made.near = near
        return made

    def __init__(self, near):
        pass

    def tolist(self):
        return self.near.tolist()

    def untyped_storage(self):
        return self.near.untyped_storage()

    def data_ptr(self):
        return self.near.data_ptr()

    def numpy(self, **_):
        raise TypeError("cannot convert a tensor of this device to numpy; copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sees what makes a tensor of the device out of none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    far = [each for each in given if isinstance(each, _Far)]
    asked = kwargs.get("device")
    if far and func._schema.name not in _MOVES:
        near = [each for each in given if not isinstance(each, _Far) and each.dim() and not each.is_meta]
        indexed = "index" in func._schema.name
        if near and not (indexed and all(not each.is_floating_point() for each in near)):
            raise RuntimeError(f"{func}: expected all tensors on one device, found {_device()} and cpu")
    to_far = torch.device(asked).type == _device().type if asked is not None else bool(far)
    if func._schema.name == "aten::copy_":
        to_far = isinstance(args[0], _Far)
    plain = {**kwargs, "device": torch.device("cpu")} if asked is not None and to_far else kwargs
    near_args, near_kwargs = tree_map_only(_Far, lambda each: each.near, (args, plain))
    out = func(*near_args, **near_kwargs)
    if to_far:
        out = tree_map_only(torch.Tensor, _Far, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if far else out


def _device() -> torch.device:
    return torch.device("far", 0)


_random = SimpleNamespace(
    is_initialized=lambda: True,
    is_available=lambda: True,
    current_device=lambda: 0,
    device_count=lambda: 1,
    _is_in_bad_fork=lambda: False,
    get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    manual_seed_all=lambda seed: None,
    get_rng_state=lambda device: torch.get_rng_state(),
    set_rng_state=lambda state, device: torch.set_rng_state(state),
)
_setup_privateuseone_for_python_backend("far", backend_module=_random)


@contextmanager
def far_device() -> Iterator[torch.device]:
    """Inside the block, tensors can be moved to the device that it yields."""
    with _Everywhere():
        yield _device()
