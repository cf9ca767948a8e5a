"""Messages as they crossed the wire, kept in the run directory for ``atlas audit``.

``messages/round-00001/<client>/00017-activations-up.safetensors`` is the 17th message that the ledger counted of that
client in that round, byte for byte as serialised: what the server, or whoever listens on the network, sees. What never
crosses the wire is not there: texts and token ids (but for the labels of language modelling, which are the text, and
which ``labels: client`` keeps back). The frozen weights of set-up are public and left out.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from atlas_cli.config.audit import RecordConfig
from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.config.units import parse_bytes
from atlas_cli.errors import ResourceError
from atlas_cli.federation.protocol import Direction, Message
from atlas_cli.runs.directory import RunDirectory, writing

FOLDER = "messages"
_DELIVERED = ("adapters", "head", "base-change")


class Recording:
    """Writes the messages of some rounds and clients; training goes on as if it were not there.

    Args:
        done: rounds that the run has behind it; what was recorded of later ones is removed, as they are done again.
            None: it begins anew.
    """

    def __init__(self, config: RecordConfig, run: RunDirectory, done: int | None) -> None:
        self.config, self.run = config, run
        self.limit = int(parse_bytes(config.limit))
        self.complete = True
        root = run.path / FOLDER
        for folder in root.glob("round-*"):
            if done is None or int(folder.name.removeprefix("round-")) > done:
                shutil.rmtree(folder)
        kept = [path.stat().st_size for path in root.rglob("*.safetensors")]
        self.messages, self.bytes = len(kept), sum(kept)

    def watch(self, number: int) -> Callable[[Message], None] | None:
        """What the ledger of a round is to call; None where nothing of the round is kept.

        The server's deliveries of the round before are kept, too, as clients start a round with them; and every change
        of the base until then, because what clients run is the sum of them.
        """
        rounds = self.config.rounds
        before = number + 1 in rounds
        whole, base = number in rounds, number < max(rounds)
        if not (whole or before or base):
            return None
        counts: Counter[str] = Counter()

        def keep(message: Message) -> None:
            delivery = message.direction == "down" and message.kind in _DELIVERED
            if not (whole or (before and delivery) or (base and message.kind == "base-change")):
                return
            self._keep(message, number, counts)

        return keep

    def _keep(self, message: Message, number: int, counts: Counter[str]) -> None:
        known = self.config.clients == "all" or message.client in self.config.clients
        if message.kind == "base-weights" or not known or not self.complete:
            return
        if self.bytes + message.bytes > self.limit:
            self.complete = False
            self.run.log(f"recording ended in round {number}: audit.record.limit, {self.config.limit}, is reached")
            return
        counts[message.client] += 1
        name = f"{counts[message.client]:05d}-{message.kind}-{message.direction}.safetensors"
        path = self.run.path / FOLDER / f"round-{number:05d}" / message.client / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in message.tensors.items()}))
        self.messages += 1
        self.bytes += message.bytes

    def record(self) -> dict[str, object]:
        """For the manifest; not ``complete``: the limit was reached."""
        return {"messages": self.messages, "bytes": self.bytes, "complete": self.complete}


def recording_of(config: ExperimentConfig, run: RunDirectory, done: int | None) -> Recording | None:
    """The recording that a config asks for."""
    return Recording(config.audit.record, run, done) if config.audit is not None else None


@dataclass(frozen=True)
class Recorded:
    """One recorded message; ``number``: its place among those of its client and round, from 1."""

    round: int
    client: str
    number: int
    kind: str
    direction: Direction
    path: Path

    def tensors(self) -> dict[str, Tensor]:
        """What was sent.

        Raises:
            ResourceError: the file is damaged or gone.
        """
        try:
            return load(self.path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise ResourceError(f"{self.path}: cannot be read as a message: {error}; record the run again") from None

    def floats(self, name: str) -> Tensor:
        """One of the tensors as float32, whatever it was compressed to (``privacy.compress``)."""
        tensors = self.tensors()
        scale = tensors.get(f"{name}_scale")
        return tensors[name].float() if scale is None else tensors[name].float() * scale.unsqueeze(-1)


def recorded(run: RunDirectory) -> list[Recorded]:
    """All recorded messages of a run: by round, client, and order; [] where nothing was recorded."""
    found = []
    for path in sorted((run.path / FOLDER).glob("round-*/*/*.safetensors")):
        number, _, rest = path.stem.partition("-")
        kind, _, direction = rest.rpartition("-")
        with suppress(ValueError):  # a name that atlas did not write
            order, of_round = int(number), int(path.parent.parent.name.removeprefix("round-"))
            way: Direction = "up" if direction == "up" else "down"
            found.append(Recorded(of_round, path.parent.name, order, kind, way, path))
    return found
