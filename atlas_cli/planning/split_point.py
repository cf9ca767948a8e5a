"""Where to cut a model: the middle when nobody says, else as deep as the client's memory allows.

Inputs are the harder to recover from activations the deeper the cut, and the bytes on the wire do not depend on it; so
privacy asks for depth and memory allows up to some layer. Time is linear in the split layer, so the fastest feasible
one is an end of the feasible interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atlas_cli.errors import ConfigError, TooFewClientsError
from atlas_cli.models.load import check_cut
from atlas_cli.planning.cuts import Cut, Setting, Shapes, config_of, cut_table
from atlas_cli.planning.devices import DEFAULT_SERVER, Device
from atlas_cli.planning.remedies import remedies, size_text

# share of tokens that the nearest embedding recovers from activations after block 1, 2, ...; pretrained weights
KNOWN_LEAKAGE = {"minilm": (1.0, 0.999, 0.99, 0.96, 0.72, 0.59)}


@dataclass(frozen=True)
class SplitChoice:
    """The table of all split layers, and one of them.

    Attributes:
        model: as asked for; ``how``: "formula" or "trace", where saved activations come from.
        device: of the client, with the memory to stay within; None: the default was asked for.
        server: of the times; ``server_assumed``: whether nobody named it.
        leakage: by split layer from 1, where it was measured for this model.
        feasible: first and last split layer that fit; None where none does or nothing was to fit.
        layer: the choice; None where nothing fits.
        reason: of the choice, or why there is none, in words.
        remedies: what would make something fit, as options; empty where something does.
    """

    model: str
    setting: Setting
    rows: list[Cut]
    device: Device | None
    server: Device | None
    server_assumed: bool
    leakage: tuple[float, ...] | None
    feasible: tuple[int, int] | None
    layer: int | None
    reason: str
    remedies: tuple[str, ...] = ()

    @property
    def how(self) -> str:
        """Where saved activations come from."""
        return self.rows[0].memory.how

    def require(self) -> int:
        """The chosen split layer.

        Raises:
            TooFewClientsError: nothing fits; says what would.
        """
        if self.layer is None:
            raise TooFewClientsError(f"{self.reason}; {'; or '.join(self.remedies)}")
        return self.layer


def get_split_point(model_name: str) -> int:
    """The middle of a model, as a number of blocks on the client: gpt2 6, bert 6, llama 16.

    Known architecture names are answered offline; others are looked up as a folder, packaged model or hub id.

    Raises:
        ResourceError: the model cannot be found.
    """
    return check_cut(None, int(config_of(model_name).num_hidden_layers))


def choose_split(
    model_name: str,
    setting: Setting | None = None,
    device: Device | None = None,
    server: Device | None = None,
    *,
    hf_config: Any = None,
) -> SplitChoice:
    """What every split layer of a model costs, and which to take; loads no weights.

    Args:
        device: of the client; its memory is the budget. None: the middle of the model, whatever it costs.
        server: its memory, where known, is a budget, too. None: times are for ``DEFAULT_SERVER``, without a budget.
        hf_config: of the model, where the caller has it.

    Raises:
        ConfigError: a setting that the model cannot take, or a device without memory.
        ResourceError: the model cannot be found.
    """
    setting = setting or Setting()
    shapes = Shapes(config_of(model_name) if hf_config is None else hf_config, setting)
    budgeted = server is not None and server.memory is not None
    serving = server or (DEFAULT_SERVER if device is not None else None)
    rows = cut_table(shapes, device, serving, budgeted)
    leakage = KNOWN_LEAKAGE.get(model_name)
    common = (model_name, setting, rows, device, serving, server is None, leakage)
    if device is None:
        middle = check_cut(None, shapes.n_layers)
        return SplitChoice(*common, None, middle, "the middle of the model; --device or --memory choose by what fits")
    if device.memory is None:
        raise ConfigError(f"device {device.name} has no memory; a split layer is chosen by it", key="devices")
    limit = server.memory if server is not None else None
    deepest = max((r.layer for r in rows if r.memory.peak <= device.memory), default=0)
    first = min((r.layer for r in rows if _server_fits(r, limit)), default=shapes.n_layers + 1)
    if first <= deepest:
        reason = _reason(rows, device, first, deepest, limit)
        return SplitChoice(*common, (first, deepest), deepest, reason)
    if first > shapes.n_layers:
        assert server is not None and limit is not None
        smallest = min(r.server_memory.peak for r in rows if r.server_memory is not None)
        why = (
            f"no split layer of {model_name} fits server {server.name}: it needs {size_text(smallest)} "
            f"and has {size_text(limit)}"
        )
        return SplitChoice(*common, None, None, why, ("name a --server with that much",))
    need = rows[first - 1].memory.peak
    above = "" if first == 1 else f", the shallowest that the server's {size_text(limit or 0)} can serve,"
    why = (
        f"no split layer of {model_name} fits {device.name}: layer {first}{above} needs {size_text(need)} "
        f"and there are {size_text(device.memory)}"
    )
    ways = remedies(shapes, first, device.memory)
    more = ("a --server with more memory serves shallower ones",) if first > 1 else ()
    return SplitChoice(*common, None, None, why, (*ways, *more))


def _server_fits(row: Cut, limit: int | None) -> bool:
    return limit is None or (row.server_memory is not None and row.server_memory.peak <= limit)


def _reason(rows: list[Cut], device: Device, first: int, deepest: int, server_limit: int | None) -> str:
    assert device.memory is not None
    last = rows[-1].layer
    if deepest == last:
        bound = f"all {last} layers fit {device.name} ({size_text(device.memory)})"
    else:
        bound = (
            f"the deepest that fits {device.name} ({size_text(device.memory)}); layer {deepest + 1} needs "
            f"{size_text(rows[deepest].memory.peak)}"
        )
    parts = [bound, "privacy asks for depth, and the bytes on the wire are the same at every layer"]
    if server_limit is not None and first > 1:
        parts.append(f"below layer {first} the server needs more than its {size_text(server_limit)}")
    here, there = rows[deepest - 1].seconds, rows[first - 1].seconds
    if here is not None and there is not None and first < deepest:
        parts.append(
            f"time is linear in the split layer: {there.total:.3g} s a step at {first}, {here.total:.3g} s at {deepest}"
        )
    return "; ".join(parts)
