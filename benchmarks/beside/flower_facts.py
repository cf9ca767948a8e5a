"""Prints, as JSON, what an installed Flower has. Runs in Flower's own environment, and imports nothing of atlas."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.metadata import version
from unittest.mock import Mock

import flwr.client.mod as earlier_mods
import flwr.clientapp.mod as mods
import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.run import Run


def reply(rank: int) -> Message:
    """What a client with an adapter of this rank sends."""
    arrays = ArrayRecord([np.zeros((rank, 8), np.float32)])
    metrics = MetricRecord({"num-examples": 1})
    message = Mock(spec=Message)
    message.content = RecordDict({"arrays": arrays, "metrics": metrics})
    message.has_error = lambda: False
    return message


def parameters(function: Callable[..., object]) -> Sequence[str]:
    """Their names."""
    return list(inspect.signature(function).parameters)


def merged(*ranks: int) -> str:
    """What FedAvg makes of adapters of these ranks: a shape, or its error."""
    try:
        arrays, _ = FedAvg().aggregate_train(1, [reply(rank) for rank in ranks])
        return str(arrays.to_numpy_ndarrays()[0].shape) if arrays is not None else "nothing"
    except Exception as error:  # whichever it is, it is the fact
        return f"{type(error).__name__}: {error}"


print(
    json.dumps(
        {
            "flwr": version("flwr"),
            "strategies": sorted(n for n in strategies.__all__ if n not in ("Strategy", "Result")),
            "mods": sorted(mods.__all__),
            "equal ranks": merged(4, 4),
            "unequal ranks": merged(4, 8),
            "accountant": "accountant" in parameters(DifferentialPrivacyServerSideFixedClipping.__init__),
            "secure aggregation": hasattr(earlier_mods, "secaggplus_mod"),
            "message sizes": hasattr(mods, "message_size_mod"),
            "bytes of a run": {"bytes_sent", "bytes_recv"} <= {field.name for field in fields(Run)},
            "first round": any("first" in name or "start" in name for name in parameters(FedAvg.start)),
        }
    )
)
