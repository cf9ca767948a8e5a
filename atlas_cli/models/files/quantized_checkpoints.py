"""Checkpoints whose weights are quantised already: by which method, and what to take instead.

Each method has a layout of its own, and most have kernels for one kind of device, without gradients on others. atlas
reads float weights and quantises them itself, by one library, so that a client's and the server's weights are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# by quant_method, as people write them
_METHODS = {
    "aqlm": "AQLM",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FP8 (fbgemm)",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quip": "QuIP#",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
# ends of the names of tensors that are not floats
_TENSORS = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_shape": "compressed-tensors",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".nested_absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_format": "bitsandbytes",
    "_blocks": "MXFP4",
    "_scales": "MXFP4",
}


def told_by(options: Any) -> str:
    """What a ``quantization_config`` says, and what to take instead, as the end of an error."""
    known: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
    bits = _bits(known)
    of_method = f"quantised by {_method(known)}" + (f" to {bits} bits" if bits else "")
    return f"the weights are {of_method}; {instead(bits, bool(known.get('bnb_4bit_use_double_quant')))}"


def instead(bits: int | None = None, double: bool = False) -> str:
    """The advice: the model before it was quantised, with the quantisation of atlas that is nearest."""
    nearest = "int8" if bits == 8 else "nf4-double" if double else "nf4"
    return (
        "atlas reads float weights and quantises them itself: take the model that this one was made from (base_model "
        f"in its card) with model.quantization: {nearest}"
    )


def method_of_tensor(name: str, kind: str) -> str | None:
    """The method that gives a tensor such a name or type; None: it is not known."""
    if kind.startswith("F8"):
        return "FP8"
    if ".quant_state." in name:
        return "bitsandbytes"
    return next((method for end, method in _TENSORS.items() if name.endswith(end)), None)


def _method(options: Mapping[str, Any]) -> str:
    named = options.get("quant_method")
    if named is None and any(str(name).startswith(("load_in_", "_load_in_", "bnb_")) for name in options):
        named = "bitsandbytes"  # whose older configs do not say
    return _METHODS.get(str(named), f"{named!r:.40}" if named else "a method that is not named")


def _bits(options: Mapping[str, Any]) -> int | None:
    """The bits a weight, where the config says."""
    if options.get("load_in_4bit") or options.get("_load_in_4bit"):
        return 4
    if options.get("load_in_8bit") or options.get("_load_in_8bit"):
        return 8
    groups = options.get("config_groups")
    first: Any = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    for holder in (options, weights if isinstance(weights, Mapping) else {}):
        for name in ("bits", "w_bit", "num_bits", "nbits"):
            found = holder.get(name)
            if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= 16:
                return found
    return 8 if "fp8" in str(options.get("quant_method")) else 4 if options.get("quant_method") == "mxfp4" else None
