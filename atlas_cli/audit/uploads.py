"""The adapters that a client sent up, as the server decodes them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from atlas_cli.aggregation.contract import TURNS
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.messages import AdapterUpdate
from atlas_cli.wire.recorded_messages import RecordedMessage


def uploaded(federation: Federation, message: RecordedMessage, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters of a recorded update, by name.

    Args:
        federation: before training.
        before: what the client was delivered.

    Raises:
        Inapplicable: it is a change by a codec, and does not say of what.
    """
    named, method = message.read(AdapterUpdate).named, federation.aggregator.method
    coding = federation.aggregator.members[message.client].coding
    if coding is None or coding.up is None:
        return dict(named)
    turns = {method.parts_of(turn).sent for turn in TURNS}
    if len(turns) > 1 or method.PRUNES:
        raise Inapplicable("what is sent up is encoded (wire.adapters), and is of other parts or ranks each round")
    (sent,) = turns
    began = {name: tensor.cpu() for name, tensor in before.items() if name.rpartition("lora_")[2] in sent}
    changes = coding.up.decode(named, {name: tuple(tensor.shape) for name, tensor in began.items()})
    return {name: tensor + changes[name] for name, tensor in began.items()}
