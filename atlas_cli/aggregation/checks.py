"""What a method declares and returns, held against its contract while a run uses it."""

from __future__ import annotations

from torch import Tensor

from atlas_cli.aggregation.contract import PARTS, Adapters, BaseMethod, Context, Factors, Merge
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.plugins import file_of


def require_parts(method: type[BaseMethod]) -> None:
    """Check that a method trains, sends and delivers A, B, both or nothing.

    Raises:
        ConfigError: a part that no adapter has.
    """
    for name in ("SENT", "DELIVERED", "TRAINED"):
        for part in getattr(method, name):
            if part not in PARTS:
                raise ConfigError(f"{file_of(method)}: Method.{name} has {part!r}; expected of {', '.join(PARTS)}")


def require_merge(method: BaseMethod, merge: object, current: Adapters, context: Context) -> Merge:
    """Check what ``aggregate`` returned: all layers of the group in their shapes, and no change of the base unless the
    method says that it makes one.

    Raises:
        AtlasError: something else; names the method's file, the group, the round and what was expected.
    """
    where = f"{file_of(type(method))}: Method.aggregate, {context.group}, round {context.round}"
    if not isinstance(merge, Merge):
        raise AtlasError(f"{where}: returned a {type(merge).__name__}, expected a Merge")
    if merge.adapters.keys() != current.keys():
        path = min(merge.adapters.keys() ^ current.keys())
        what = "lacks" if path in current else "has another layer,"
        raise AtlasError(f"{where}: the merged adapter {what} {path}; expected every layer of the group and no other")
    for path, before in current.items():
        found = merge.adapters[path]
        if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(t, Tensor) for t in found)):
            raise AtlasError(f"{where}: {path} is no Factors(A, B)")
        if [t.shape for t in found] != [t.shape for t in before]:
            raise AtlasError(f"{where}: {path} has {_shapes(found)}, expected {_shapes(before)}")
    if merge.base and not method.CHANGES_BASE:
        raise AtlasError(f"{where}: returned a change of the base, and Method.CHANGES_BASE is False; set it to True")
    return merge


def _shapes(factors: Factors) -> str:
    return f"A {tuple(factors[0].shape)} and B {tuple(factors[1].shape)}"
