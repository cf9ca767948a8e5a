"""What a receiver made of messages that are changes of earlier ones (``codec: delta``): all of them, put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.wire.messages import HiddenStates, Message
from atlas_cli.wire.recorded_messages import RecordedMessage

Place = tuple[int, int]  # round, and number of the local step
Decoded = Mapping[type[Message], HiddenStates]


def put_together(
    plan: Plan,
    client: ClientPlan,
    steps: Mapping[Place, Mapping[type[Message], RecordedMessage]],
    wanted: Collection[Place],
    gone: Collection[int],
) -> dict[Place, Decoded]:
    """The decoded messages of the ``wanted`` steps of a client.

    Args:
        steps: the messages of all of its steps, from the first round on.
        gone: the rounds from which it was dropped, so that both ends forgot them.
    """
    codecs, found = plan.codecs(client), dict[Place, Decoded]()
    before, last = codecs.state_dict(), 0
    for place, messages in sorted(steps.items(), key=lambda step: step[0]):
        if place[0] != last:
            if last in gone:
                codecs.load_state_dict(before)
            before, last = codecs.state_dict(), place[0]
        sent = sorted(messages.items(), key=lambda message: message[1].number)
        decoded: dict[type[Message], HiddenStates] = {}
        for kind, message in sent:
            if issubclass(kind, HiddenStates):
                decoded[kind] = codecs.decode(message.read(kind))
        if place in wanted:
            found[place] = decoded
    return found
