"""Chooses where to cut a model: in the middle by default, else as deep as the client's memory allows.

Inputs are the harder to recover from activations the deeper the cut, and the bytes on the wire do not depend on it; so
privacy asks for depth and memory allows up to some layer. Time is linear in the split layer, so the fastest feasible
one is an end of the feasible interval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from atlas_cli.errors import ConfigError, TooFewClientsError
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import check_cut
from atlas_cli.planning.cuts.leakage import EXAMPLE, KNOWN, Leakage
from atlas_cli.planning.cuts.remedies import remedies, size_text
from atlas_cli.planning.cuts.table import Cut, Setting, Shapes, config_of, cut_table
from atlas_cli.planning.devices.devices import DEFAULT_SERVER, Device
from atlas_cli.planning.published_dtype import planned_dtype, published_dtype
from atlas_cli.printable import listed


@dataclass(frozen=True)
class SplitChoice:
    """The table of all split layers, and the chosen one.

    Attributes:
        model: the name as given.
        device: the client's, whose memory is the limit; None: the default was asked for.
        server: the device behind the server's times; ``server_assumed``: whether it is only assumed.
        leakage: the leakage measured for this model, if any; ``max_leakage``: the largest allowed.
        feasible: first and last split layer within all limits; None if there is none or nothing is limited.
        layer: the chosen split layer; None if nothing fits.
        reason: the reason of the choice, or why there is none, in words.
        remedies: options that would make a layer fit; empty if one fits.
        published_dtype: the dtype of the model's published weights, if its config names one.
    """

    model: str
    setting: Setting
    rows: list[Cut]
    device: Device | None
    server: Device | None
    server_assumed: bool
    leakage: Leakage | None
    max_leakage: float | None
    feasible: tuple[int, int] | None
    layer: int | None
    reason: str
    remedies: tuple[str, ...] = ()
    published_dtype: str | None = None

    def limits_broken(self, row: Cut) -> tuple[str, ...]:
        """The limits that a split layer breaks: "memory", "server", "leakage"."""
        client = self.device.memory if self.device is not None else None
        server = self.server.memory if self.server is not None and not self.server_assumed else None
        leaked = self.leakage.worst(row.layer) if self.leakage is not None else None
        broken = {
            "memory": client is not None and row.memory.peak > client,
            "server": server is not None and row.server_memory is not None and row.server_memory.peak > server,
            "leakage": self.max_leakage is not None and leaked is not None and leaked > self.max_leakage,
        }
        return tuple(limit for limit, is_broken in broken.items() if is_broken)

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

    Example:
        >>> get_split_point("gpt2")
        6
    """
    return check_cut(None, int(config_of(model_name).num_hidden_layers))


def default_tokens(hf_config: PreTrainedConfig, family: str = "known") -> int:
    """The tokens of an example where nobody says how many: those of ``Setting``, or all that a model can take."""
    positions = family_of(hf_config, family).positions(hf_config)
    return Setting.tokens if positions is None else min(Setting.tokens, positions)


def choose_split(
    model_name: str,
    setting: Setting | None = None,
    device: Device | None = None,
    server: Device | None = None,
    *,
    leakage: Leakage | None = None,
    max_leakage: float | None = None,
    hf_config: PreTrainedConfig | None = None,
) -> SplitChoice:
    """Compute the cost of every split layer of a model, and choose one; loads no weights.

    Args:
        device: the client's, whose memory is the budget; None: the middle of the model, whatever it costs.
        server: the server's device, whose memory is also a budget if known; None: ``DEFAULT_SERVER``, without a budget.
        leakage: the leakage by layer; default: that of the packaged model.
        max_leakage: from 0 to 1; cuts that leak more are not chosen.
        hf_config: the model's config, if the caller has it.

    Raises:
        ConfigError: a setting that the model cannot take, a device without memory, a leakage of layers that the model
            does not have, or none of a layer that everything else allows.
        ResourceError: the model cannot be found.
    """
    hf_config = config_of(model_name) if hf_config is None else hf_config
    setting = setting or Setting(tokens=default_tokens(hf_config), dtype=planned_dtype(hf_config))
    published = published_dtype(hf_config)  # before a model is built, which writes its own dtype into the config
    shapes = Shapes(hf_config, setting)
    if device is not None and device.memory is None:
        raise ConfigError(f"device {device.name} has no memory; a split layer is chosen by it", key="devices")
    serving = server or (DEFAULT_SERVER if device is not None else None)
    rows = cut_table(shapes, device, serving, server is not None and server.memory is not None)
    leakage = leakage or KNOWN.get(model_name)
    if leakage is not None and max(leakage.layers, default=0) > shapes.n_layers:
        raise ConfigError(
            f"{max(leakage.layers)} is not a split layer of {model_name}, which has {shapes.n_layers}", key="--leakage"
        )
    known = model_name, setting, rows, device, serving, server is None, leakage, max_leakage
    table = SplitChoice(*known, None, None, "", published_dtype=published)
    if max_leakage is not None:
        _require_leakage(table, max_leakage)
    allowed = [row.layer for row in rows if not table.limits_broken(row)]
    if not allowed:
        reason, ways = _nothing(table, shapes)
        return replace(table, reason=reason, remedies=ways)
    ends = allowed[0], allowed[-1]
    if device is not None:
        return replace(table, feasible=ends, layer=ends[1], reason=_reason(table, *ends))
    middle = check_cut(None, shapes.n_layers)
    if max_leakage is None:
        return replace(table, layer=middle, reason="the middle of the model; --device or --memory choose by what fits")
    why = "the middle of the model" if middle >= ends[0] else "the shallowest whose leakage is allowed"
    return replace(table, feasible=ends, layer=max(middle, ends[0]), reason=f"{why}; {_leakage_bound(table, ends[0])}")


def _require_leakage(table: SplitChoice, allowed: float) -> None:
    if not 0 <= allowed <= 1:
        raise ConfigError(f"{allowed} is not a share; give a number from 0 to 1", key="--max-leakage")
    unknown = [
        str(row.layer)
        for row in table.rows
        if not table.limits_broken(row) and (table.leakage is None or row.layer not in table.leakage.layers)
    ]
    if unknown:
        raise ConfigError(
            f"the leakage of {table.model} is not known at split layer {listed(unknown)}; "
            "measure what an attack recovers from the activations there and give it as a leakage file, "
            f"--leakage FILE: {EXAMPLE}",
            key="--max-leakage",
        )


def _nothing(table: SplitChoice, shapes: Shapes) -> tuple[str, tuple[str, ...]]:
    """Why no split layer is left, and what would help."""
    rows, device, server = table.rows, table.device, table.server
    kept = [row for row in rows if "leakage" not in table.limits_broken(row)]
    served = [row for row in rows if "server" not in table.limits_broken(row)]
    fitting = [row for row in rows if not {"memory", "server"} & {*table.limits_broken(row)}]
    ways: tuple[str, ...] = ()
    if fitting and table.leakage is not None:  # only the leakage is against these
        deepest = fitting[-1].layer
        ways = (f"--max-leakage {table.leakage.worst(deepest)} allows layer {deepest}",)
    if not kept:
        return f"every split layer of {table.model} leaks more than {table.max_leakage}", ways or ("use another model",)
    if not served:
        assert server is not None and server.memory is not None
        smallest = min(r.server_memory.peak for r in rows if r.server_memory is not None)
        why = f"it needs {size_text(smallest)} and has {size_text(server.memory)}"
        return f"no split layer of {table.model} fits server {server.name}: {why}", ("name a --server with that much",)
    assert device is not None and device.memory is not None
    first = max(kept[0].layer, served[0].layer)
    which = ""
    if kept[0].layer == first > 1:
        which = f", the shallowest that leaks no more than {table.max_leakage},"
    elif first > 1:
        assert server is not None
        which = f", the shallowest that the server's {size_text(server.memory or 0)} can serve,"
    reason = (
        f"no split layer of {table.model} fits {device.name}: layer {first}{which} needs "
        f"{size_text(rows[first - 1].memory.peak)} and there are {size_text(device.memory)}"
    )
    more = ("a --server with more memory serves shallower ones",) if served[0].layer == first > 1 else ()
    return reason, (*remedies(shapes, first, device.memory), *ways, *more)


def _reason(table: SplitChoice, first: int, deepest: int) -> str:
    rows, device, server = table.rows, table.device, table.server
    assert device is not None and device.memory is not None
    last = rows[-1].layer
    if deepest == last:
        bound = f"all {last} layers fit {device.name} ({size_text(device.memory)})"
    else:
        bound = (
            f"the deepest that fits {device.name} ({size_text(device.memory)}); layer {deepest + 1} needs "
            f"{size_text(rows[deepest].memory.peak)}"
        )
    parts = [bound, "privacy asks for depth, and the bytes on the wire are the same at every layer"]
    if table.max_leakage is not None:
        parts.append(_leakage_bound(table, first))
    if first > 1 and "server" in table.limits_broken(rows[first - 2]):
        assert server is not None
        parts.append(f"below layer {first} the server needs more than its {size_text(server.memory or 0)}")
    here, there = rows[deepest - 1].seconds, rows[first - 1].seconds
    if here is not None and there is not None and first < deepest:
        parts.append(
            f"time is linear in the split layer: {there.total:.3g} s a step at {first}, {here.total:.3g} s at {deepest}"
        )
    return "; ".join(parts)


def _leakage_bound(table: SplitChoice, first: int) -> str:
    if first > 1 and "leakage" in table.limits_broken(table.rows[first - 2]):
        return f"below layer {first} the leakage is above {table.max_leakage}"
    return f"the leakage is at most {table.max_leakage} at all of these"
