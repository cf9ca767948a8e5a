"""What an attack must say. One file an attack in this folder, named as after ``--attack``; its class is ``Attack``.

An attack is adaptive: it may use the frozen model, what the server delivered and the defence in force, and makes its
own training material with them. Names of its own begin with an underscore: any other name that ``BaseAttack`` does not
have is refused when the attack is loaded.

``atlas_cli.testing.attacks`` tests an attack, in one line of a plug-in's own tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure


class BaseAttack(ABC):
    """An attack on recorded messages: ``atlas audit RUN --attack <name>``.

    Args:
        name: as in the command.

    Attributes:
        channel: what is listened to.
        knows: the adversary's knowledge besides it.
    """

    channel: ClassVar[str]
    knows: ClassVar[str]

    def __init__(self, name: str) -> None:
        self._name = name

    @abstractmethod
    def attack(self, evidence: Evidence) -> Figure:
        """How well it does, as ``figure`` gives it.

        Raises:
            Inapplicable: it has nothing to work on in this run; the message says why.
        """

    def figure(
        self,
        what: str,
        interval: tuple[float, float, float],
        *,
        chance: float,
        examples: int,
        best: float = 1.0,
        floor: float | None = None,
        note: str = "",
    ) -> Figure:
        """What it found, beside what it is to be held against.

        Args:
            what: the number in words.
            interval: the number, and its 95 % interval (``audit.figures`` has intervals of shares and of AUCs).
            chance: of a guess that uses nothing.
            examples: texts, records or clients that the interval is over.
            best: of an attack that recovers all.
            floor: of an attacker that has not listened, but knows what is common; None where that is chance.
            note: anything that a reader must know.
        """
        return Figure(self._name, what, self.channel, self.knows, *interval, chance, best, examples, floor, note)
