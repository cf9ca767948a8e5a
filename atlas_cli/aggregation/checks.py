"""What a method declares and returns, held against its contract while a run uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import (
    PARTS,
    TURNS,
    Adapters,
    BaseMethod,
    ClientTerm,
    Context,
    ExtraTensors,
    Factors,
    Layer,
    Merge,
    Parts,
    Shapes,
)
from atlas_cli.errors import AtlasError, ConfigError, NonFiniteError, PluginError
from atlas_cli.plugins import file_of


class NotFiniteTermError(PluginError, NonFiniteError):
    """What a client term gives is not finite, where the gradients are; a client may be dropped for it."""


def require_parts(method: type[BaseMethod]) -> None:
    """Check that a method trains, sends and delivers A, B, both or nothing.

    Raises:
        ConfigError: a part that no adapter has.
    """
    for name in ("SENT", "DELIVERED", "TRAINED"):
        for part in getattr(method, name):
            if part not in PARTS:
                raise ConfigError(f"{file_of(method)}: Method.{name} has {part!r}; expected of {', '.join(PARTS)}")
    others = [
        name for name in ("CHANGES_BASE", "PRUNES", "DRAWS", "CUTS_MAY_DIFFER", "TAKES_LATE") if getattr(method, name)
    ]
    if method.SELECTS and (others or not {*method.TRAINED} == {*method.SENT} <= {*method.DELIVERED}):
        raise ConfigError(
            f"{file_of(method)}: Method.SELECTS needs the parts that are trained, and no others, to be sent, and these "
            "to be delivered; it goes with none of CHANGES_BASE, PRUNES, DRAWS, CUTS_MAY_DIFFER and TAKES_LATE"
        )


def require_turns(method: BaseMethod) -> None:
    """Check that ``parts_of`` gives parts that the method has, and as many to train for each merge.

    Raises:
        ConfigError: it gives something else.
    """
    where, turns = hook_of(method, "parts_of"), [method.parts_of(merge) for merge in TURNS]
    for turn in turns:
        if not isinstance(turn, Parts):
            raise ConfigError(f"{where} gives {_named(turn)}, expected Parts")
        for name, parts in turn._asdict().items():
            if not set(parts) <= set(ever := getattr(method, name.upper())):
                raise ConfigError(f"{where} gives {name}={parts!r:.80}, and {name.upper()} has {ever!r:.80}")
    if len({len(turn.trained) for turn in turns}) > 1:
        raise ConfigError(f"{where} trains more parts for some merges than for others; expected as many for each")


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


def term_of(method: BaseMethod) -> ClientTerm | None:
    """A new client term of a method.

    Raises:
        PluginError: it gives something else.
    """
    term = method.client_term()
    if term is not None and not isinstance(term, ClientTerm):
        raise PluginError(f"{hook_of(method, 'client_term')} gives {_named(term)}, expected a ClientTerm or None")
    return term


def told_extras(method: BaseMethod, layers: Mapping[str, Layer]) -> ExtraTensors:
    """The tensors besides adapters that a method tells for these layers.

    Raises:
        PluginError: it gives something else, or a shape that is none.
    """
    told, hook = method.extra_tensors(layers), hook_of(method, "extra_tensors")
    if not isinstance(told, ExtraTensors):
        raise PluginError(f"{hook} gives {_named(told)}, expected ExtraTensors")
    for field, shapes in told._asdict().items():
        if not isinstance(shapes, Mapping):
            raise PluginError(f"{hook}: {field} is {_named(shapes)}, expected shapes by name")
        for name, shape in shapes.items():
            if not (isinstance(shape, tuple | list) and all(type(size) is int and size >= 0 for size in shape)):
                raise PluginError(f"{hook}: {field} has {name} of shape {shape!r:.80}, expected whole numbers")
    return told


def require_tensors(
    kept: BaseMethod | ClientTerm,
    name: str,
    found: object,
    told: Shapes,
    field: str,
    *,
    all_of_them: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Check named tensors that a method or its client term gives or keeps against what ``extra_tensors`` tells.

    Args:
        name: of the hook or attribute that they come from.
        field: of ``ExtraTensors`` that ``told`` is.
        dtype: of adapters, in which tensors may be, too.

    Raises:
        PluginError: another name, shape or type; names the file and the hook.
    """
    where = hook_of(kept, name)
    if not isinstance(found, Mapping):
        raise PluginError(f"{where} is {_named(found)}, expected tensors by name")
    for each in sorted({*found, *(told if all_of_them else ())}):
        tensor, shape = found.get(each), told.get(each)
        has = f"{each} of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"{each}: {_named(tensor)}"
        if tensor is None:
            raise PluginError(f"{where} lacks {each}, which extra_tensors tells as {field}")
        if shape is None or not isinstance(tensor, Tensor) or tuple(tensor.shape) != tuple(shape):
            expected = "nothing of that name" if shape is None else f"shape {tuple(shape)}"
            raise PluginError(f"{where} has {has}, and extra_tensors tells {expected} as {field}")
        if tensor.dtype not in (torch.float32, dtype):
            raise PluginError(f"{where} has {each} of type {tensor.dtype}, expected torch.float32")


def require_state(method: BaseMethod, group: str, layers: Mapping[str, Layer], dtype: torch.dtype) -> None:
    """Check what a method keeps of a group after a merge: what could not be loaded again would end a resumed run.

    Raises:
        PluginError: a tensor that it does not tell.
    """
    kept, told = method.state.get(group, {}), told_extras(method, layers).at_server
    require_tensors(method, f"state[{group!r}]", kept, told, "at_server", all_of_them=False, dtype=dtype)


def require_delivered(method: BaseMethod, found: object, like: Adapters) -> dict[str, Factors]:
    """Check what ``deliver`` gives: the layers that the receiver has, at its ranks.

    Args:
        like: factors of the receiver's shapes.

    Raises:
        PluginError: another layer or shape.
    """
    return _require_factors(hook_of(method, "deliver"), found, like)


def require_selected(method: BaseMethod, found: object, rank: int, of: int) -> list[int]:
    """Check what ``selected`` gives: as many components as the client has, of those that there are, in order.

    Raises:
        PluginError: something else.
    """
    own = list(found) if isinstance(found, Iterable) else []
    if len(own) != rank or own != sorted(set(own) & set(range(of))):
        hook = hook_of(method, "selected")
        raise PluginError(f"{hook} gives {found!r:.80}, expected {rank} numbers in ascending order, from 0 to {of - 1}")
    return own


def require_corrected(term: ClientTerm, found: object, gradients: Adapters) -> Adapters:
    """Check what ``corrected`` gives: all layers of the gradients, in their shapes.

    Raises:
        PluginError: another layer or shape.
        NotFiniteTermError: a value that is not finite, where all gradients are.
    """
    where = hook_of(term, "corrected")
    corrected = _require_factors(f"{where} (None leaves gradients unchanged)", found, gradients)
    for path, factors in corrected.items():
        if not all(bool(torch.isfinite(t).all()) for t in factors) and _finite(gradients):
            raise NotFiniteTermError(f"{where} gives {path} that is not finite, from gradients that are")
    return corrected


def require_penalty(term: ClientTerm, found: object) -> Tensor:
    """Check what ``penalty`` gives: a number with a gradient.

    Raises:
        PluginError: something else.
        NotFiniteTermError: it is not finite.
    """
    where = hook_of(term, "penalty")
    if not isinstance(found, Tensor):
        raise PluginError(f"{where} gives {_named(found)}, expected a tensor or None")
    if found.dim() or not found.requires_grad:
        what = f"of shape {tuple(found.shape)}" if found.dim() else "that does not depend on the adapters"
        raise PluginError(f"{where} gives a tensor {what}, expected a 0-d one with a gradient, or None")
    if not torch.isfinite(found):
        raise NotFiniteTermError(f"{where} gives {found.item()}, which is not finite")
    return found


def require_merged_head(method: BaseMethod, found: object, like: Tensor) -> Tensor:
    """Check what ``merge_values`` gives: a tensor of the shape of the parameter.

    Raises:
        PluginError: something else.
    """
    if not isinstance(found, Tensor) or found.shape != like.shape:
        has = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else _named(found)
        raise PluginError(f"{hook_of(method, 'merge_values')} gives {has}, expected shape {tuple(like.shape)}")
    return found


def require_unchanged_by(term: ClientTerm, unchanged: bool) -> None:
    """Check that ``begin_round`` left the adapter that it was shown as it was.

    Raises:
        PluginError: it did not.
    """
    if not unchanged:
        raise PluginError(f"{hook_of(term, 'begin_round')} writes to the adapter that it is shown; copy what is kept")


def require_lossless(kept: BaseMethod | ClientTerm, anew: BaseMethod | ClientTerm | None) -> None:
    """Check that what ``state_dict`` gives brings back all of ``state``, where a plug-in writes either hook itself.

    Args:
        anew: one that was just made.

    Raises:
        PluginError: something would be lost with a checkpoint, or with a client that is put away or sent elsewhere.
    """
    base = BaseMethod if isinstance(kept, BaseMethod) else ClientTerm
    hooks = ("state_dict", "load_state_dict")
    written = [hook for hook in hooks if getattr(type(kept), hook) is not getattr(base, hook)]
    if anew is None or not written:
        return
    anew.load_state_dict({name: value.clone() for name, value in kept.state_dict().items()})
    before, after = (base.state_dict(each) for each in (kept, anew))  # type: ignore[arg-type]
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or not torch.equal(before[name], after[name]):
            raise PluginError(f"{hook_of(kept, written[0])}: {name} of state is not what it was after load_state_dict")


def _require_factors(where: str, found: object, like: Adapters) -> dict[str, Factors]:
    if not isinstance(found, Mapping):
        raise PluginError(f"{where} gives {_named(found)}, expected Factors by layer")
    for path in sorted(found.keys() ^ like.keys()):
        raise PluginError(f"{where} {'lacks' if path in like else 'has another layer,'} {path}")
    for path, wanted in like.items():
        each = found[path]
        if not (isinstance(each, tuple) and len(each) == 2 and all(isinstance(t, Tensor) for t in each)):
            raise PluginError(f"{where} gives {path} that is no Factors(A, B)")
        if [t.shape for t in each] != [t.shape for t in wanted]:
            raise PluginError(f"{where} gives {path} with {_shapes(Factors(*each))}, expected {_shapes(wanted)}")
    return dict(found)


def _finite(adapters: Adapters) -> bool:
    return all(bool(torch.isfinite(t).all()) for factors in adapters.values() for t in factors)


def hook_of(kept: BaseMethod | ClientTerm, name: str) -> str:
    """A hook of a method or its client term as errors name it, with its file."""
    return f"{file_of(type(kept))}: {type(kept).__name__}.{name}"


def _named(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shapes(factors: Factors) -> str:
    return f"A {tuple(factors[0].shape)} and B {tuple(factors[1].shape)}"
