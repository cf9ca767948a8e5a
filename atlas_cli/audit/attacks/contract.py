"""The contract of an attack. Each has a file in this folder, named as after ``--attack``, with a class ``Attack``.

An attack is adaptive: it may use the frozen model, the server's deliveries and the defence in force, and makes its
own training material with them. Names of its own begin with an underscore: any other name that ``BaseAttack`` does not
have is refused when the attack is loaded.

``atlas_cli.testing.attacks`` tests an attack, in one line of a plug-in's own tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from atlas_cli.audit.epsilon_gap import EpsilonGap
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, LowRate, low_rates_in_words
from atlas_cli.printable import on_one_line


class BaseAttack(ABC):
    """An attack on recorded messages: ``atlas audit RUN --attack <name>``.

    Args:
        name: the attack's name on the command line.

    Attributes:
        channel: the channel that the adversary observes.
        knows: what else the adversary knows.
    """

    channel: ClassVar[str]
    knows: ClassVar[str]

    def __init__(self, name: str) -> None:
        self._name = name

    @abstractmethod
    def attack(self, evidence: Evidence) -> Figure:
        """Run the attack, and return how well it does, made by ``figure``.

        Raises:
            Inapplicable: the attack has nothing to work on in this run; the message says why.
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
        low_rates: tuple[LowRate, ...] = (),
        gap: EpsilonGap | None = None,
        rouge_l: tuple[float, float, float] | None = None,
    ) -> Figure:
        """The result of the attack, with the values to compare it with.

        Args:
            what: the measured quantity in words.
            interval: its value and 95 % interval (``audit.figures`` computes intervals of shares and of AUCs).
            chance: the value that a guess without any information reaches.
            examples: the number of texts, records or clients behind the interval.
            best: the value of an attack that recovers everything.
            floor: the value of an attacker that knows only what is common; None if that equals chance.
            note: whatever else a reader must know.
            low_rates: by ``audit.figures.at_few_false_alarms``, of an attack that tells two kinds apart; they go into
                the note, too.
            gap: a lower bound on epsilon that was found; the command fails where it is above the upper one.
            rouge_l: the mean ROUGE-L of recovered texts and its interval (``audit.rouge``); it goes into the note, too.
        """
        in_order = "" if rouge_l is None else "ROUGE-L {:.3f} ({:.3f} to {:.3f})".format(*rouge_l)
        note = "; ".join(filter(None, (low_rates_in_words(low_rates), in_order, note)))
        what, channel, knows, note = map(on_one_line, (what, self.channel, self.knows, note))
        return Figure(
            self._name, what, channel, knows, *interval, chance, best, examples, floor, note, low_rates, gap, rouge_l
        )
