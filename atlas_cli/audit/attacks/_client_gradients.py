"""Which recorded messages carry the gradient of a client's local step, and the gradient as its receiver knows it.

Two kinds do. The ``control-variates`` of ``drift: scaffold`` are the gradient of the first local step of a round,
before ``max_grad_norm`` clips it, whatever the optimizer. An update of adapters is one if it is one plain step of SGD:
what was delivered less what is sent, by the learning rate. With more local steps, momentum, decay or AdamW it is not,
and is not taken for one. Clipping leaves its direction alone: where a clip may have bound, its length is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from atlas_cli.aggregation.contract import scales_of
from atlas_cli.audit.evidence import UNSPLIT, Evidence, Step
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.uploads import uploaded
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.wire.messages import AdapterUpdate, FirstGradients, Message
from atlas_cli.wire.recorded_messages import RecordedMessage

CLIPPED = 0.999  # of a clip: a norm from here on may be what the clip left of a longer one


@dataclass(frozen=True)
class ClientGradient:
    """The gradient of a client's adapters in a local step.

    Attributes:
        step: the local step.
        values: by the names of parameters, of their shapes.
        scaled: whether its length is that of the gradient; else only its direction is.
        noisy: whether it has noise of a mechanism.
    """

    step: Step
    values: dict[str, Tensor]
    scaled: bool
    noisy: bool


def require_plain(evidence: Evidence, more: Mapping[str, bool]) -> None:
    """Require that an update of adapters is a gradient, up to the learning rate and a clip.

    Args:
        more: further conditions in words, and whether they hold.

    Raises:
        Inapplicable: it is none; names what it lacks.
    """
    config = evidence.federation.config
    optimizer = config.training.client_optimizer
    plain = {
        "client_optimizer.name: sgd": optimizer.name == "sgd",
        "no momentum": optimizer.momentum == 0,
        "no weight decay": optimizer.weight_decay == 0,
        "local_steps: 1": config.training.local_steps == 1,
        "no LoRA dropout": config.lora.dropout == 0,
        **more,
    }
    if lacking := [name for name, holds in plain.items() if not holds]:
        raise Inapplicable(f"an update is no plain gradient, for that it needs {', '.join(lacking)}")


def client_gradients(evidence: Evidence, most: int) -> Iterator[ClientGradient]:
    """Gradients of first local steps, from rounds and clients in turn, of ``most`` texts or a few more.

    Raises:
        Inapplicable: no recorded message is the gradient of a local step, or what a client began with is not known.
    """
    federation = evidence.federation
    config = federation.config
    if config.mode != "split-federated":
        raise Inapplicable(UNSPLIT)
    first = config.training.drift.name == "scaffold"
    if not first:
        more = {
            "a method that adds nothing at clients": federation.aggregator.method.client_term() is None,
            "no asynchrony": config.training.asynchrony is None,
        }
        require_plain(evidence, more)
    elif config.lora.dropout:
        raise Inapplicable("LoRA dropout is drawn anew in each step, and the gradient is of what was drawn")
    if config.privacy.mid is not None:
        raise Inapplicable("the gradient is of what a bottleneck drew (privacy.mid), which the server does not know")
    if config.engine.compile:
        raise Inapplicable("compiled blocks have no second derivatives; audit a run without engine.compile")
    kind: type[Message] = FirstGradients if first else AdapterUpdate
    sent = {(m.round, m.client): m for m in evidence.messages if m.type is kind}
    learning = {name for name, client in federation.plan.by_name.items() if client.learns == "backprop"}
    steps = [step for step in evidence.chosen_steps(most) if step.number == 0 and step.client in learning]
    steps = [step for step in steps if (step.round, step.client) in sent]
    if not steps:
        raise Inapplicable(f"no {kind.kind} of a client that learns by backpropagation were recorded")
    for step in steps:
        message = sent[step.round, step.client]
        yield (_first_gradient if first else _plain_step)(evidence, step, message)


def _first_gradient(evidence: Evidence, step: Step, message: RecordedMessage) -> ClientGradient:
    scales = scales_of(evidence.federation.aggregator.members[step.client].adapters)
    values = {
        name: value / scales[name.removesuffix(".lora_B")] if name.endswith(".lora_B") else value
        for name, value in message.read(FirstGradients).named.items()
    }
    examples = evidence.federation.config.privacy.examples is not None
    return ClientGradient(step, values, scaled=not examples, noisy=examples)


def _plain_step(evidence: Evidence, step: Step, message: RecordedMessage) -> ClientGradient:
    before = evidence.party(step.client, step.round).adapters.state()
    after = uploaded(evidence.federation, message, before)
    change = {name: before[name].cpu() - tensor for name, tensor in after.items() if name in before}
    return gradient_of_change(evidence, step, change)


def gradient_of_change(evidence: Evidence, step: Step, change: dict[str, Tensor]) -> ClientGradient:
    """The gradient of a plain step that took ``change`` off a client's adapters."""
    config = evidence.federation.config
    training, privacy = config.training, config.privacy
    rate = training.client_optimizer.lr * learning_rate_factor(training, step.round - 1)
    values = {name: value / rate for name, value in change.items()}
    norm = math.sqrt(math.fsum(float(value.double().square().sum()) for value in values.values()))
    # the norm that is clipped is that of a head at the client, too, so that a clip may have bound at any norm
    with_head = training.labels == "client"
    clips = training.max_grad_norm is not None and (with_head or norm >= CLIPPED * training.max_grad_norm)
    mechanisms = privacy.examples is not None or privacy.updates is not None
    noisy = privacy.examples is not None or (privacy.updates is not None and privacy.updates.where == "client")
    return ClientGradient(step, values, scaled=not (clips or mechanisms), noisy=noisy)
