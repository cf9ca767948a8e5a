"""What CUDA graphs do, on a CPU: operators are recorded with the tensors that they read and wrote, and a replay calls
them again on the same memory, without the Python that called them first. What a capture forbids is an error, too."""

import weakref
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from atlas_cli.models.cuda_graphs.recorder import Recording

# operators that need a value of the device on the CPU, or a value of the CPU on the device
FORBIDDEN = {
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero"),
    *("aten.lift_fresh", "aten.lift_fresh_copy", "aten._unique2", "aten.repeat_interleave"),
}


class _Listening(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator._schema.name.replace("::", ".") in FORBIDDEN:
            raise RuntimeError(f"{operator} is not permitted while a stream is capturing\nand more lines")
        found = operator(*args, **(kwargs or {}))
        # a number of the CPU (a tensor without dimensions) is passed to a kernel by value
        places = {leaf.device for leaf in tree_leaves((args, kwargs, found)) if _held(leaf) and leaf.dim()}
        if len(places) > 1:
            raise RuntimeError(f"{operator} between {places} is not permitted while a stream is capturing")
        self.calls.append((operator, args, kwargs or {}, found))
        return found


class Tape:
    """A recorder that counts its replays."""

    def __init__(self) -> None:
        self.replays = self.recordings = 0

    def warm_up(self, compute: Callable[[], object]) -> None:
        compute()

    def record(self, compute: Callable[[], list[Tensor]]) -> Recording:
        # transformers leaves out its checks of values while a stream is capturing, and asks this whether one is
        with _Listening() as heard, patch("transformers.utils.import_utils.is_cuda_stream_capturing", lambda: True):
            outputs = compute()
        self.recordings += 1
        made = {id(leaf) for *_, found in heard.calls for leaf in tree_leaves(found)}
        calls = [(operator, *_weakly((args, kwargs), made), found) for operator, args, kwargs, found in heard.calls]

        @torch.no_grad()
        def replay() -> None:
            self.replays += 1
            for operator, *given, before in calls:
                args, kwargs = _strongly(given)
                read = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if _held(leaf)}
                now = operator(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
                    if _held(old) and old.untyped_storage().data_ptr() not in read:  # else a view, or written in place
                        old.copy_(new)

        return Recording(outputs, replay)


def _weakly(given: object, made: set[int]) -> object:
    """With a weak reference in place of each tensor that was there before the recording: who captures keeps it."""
    return tree_map_only(Tensor, lambda leaf: leaf if id(leaf) in made else weakref.ref(leaf), given)


def _strongly(given: object) -> object:
    def there(leaf: weakref.ref) -> Tensor:
        found = leaf()
        assert found is not None, "a replay reads memory that was given back"
        return found

    return tree_map_only(weakref.ref, there, given)


def _held(leaf: object) -> bool:
    return isinstance(leaf, Tensor)
