"""A budget that stops: which round of a plan would pass it, and which clients are frozen (``privacy.budget``).

Everything follows from the plan, the data's sizes and what earlier runs told: so that it is known before training, and
a resumed run stops and freezes in the same round, unless other runs told more or a budget was changed meanwhile. Who is
frozen depends on how often a client took part and never on what it holds, and so tells nothing of it.

    stop     training ends before the round in which one client that is drawn would pass a budget
    freeze   such a client is not drawn any more, and another comes in its place, as long as there is one; training ends
             when fewer are left than ``training.min_clients``. What it sent before stays in what was merged, its
             adapters stay as they are, and it gets merged adapters at the end, as everybody does
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import BudgetSpentError
from atlas_cli.privacy.account.epsilon_account import EpsilonAccount
from atlas_cli.privacy.account.events import Event, Events, composed_epsilon, together
from atlas_cli.privacy.account.participation import ClientUse
from atlas_cli.storage.state_dict import StateDict, is_count, require_value, tensors_and_values

Prior = Mapping[str, Mapping[str, Events]]  # by client and channel: what earlier runs told


class End(NamedTuple):
    """Where a budget ends training.

    Attributes:
        number: the round that is refused; 0 is what is sent before the first.
        why: a clause, "phone-1 would have told updates of epsilon 9.1, ...".
    """

    number: int
    why: str

    def sentence(self) -> str:
        """``round 4 is not trained: in it ...``."""
        return f"round {self.number} is not trained: {self.why}"


class Budget:
    """The budget of a run.

    Args:
        account: of the run; with ``freeze`` its cohorts are from now on those without frozen clients.
        prior: what earlier runs told.

    Attributes:
        limits: by channel, the largest epsilon.
        begun: the last round that was begun.
        settled: the last round that is not decided anew when others told more; -1 if none was begun.
        finished: whether that was trained as the last, because of the budget.
    """

    def __init__(self, config: ExperimentConfig, account: EpsilonAccount, prior: Prior | None = None) -> None:
        assert config.privacy.budget is not None
        self.rule, self.config, self.account = config.privacy.budget, config, account
        self.delta = self.rule.delta if self.rule.delta is not None else config.privacy.delta
        given = self.rule.epsilon
        channels = given if isinstance(given, dict) else dict.fromkeys(config.privacy.bounded(), given)
        self.limits: dict[str, float] = {str(channel): limit for channel, limit in channels.items()}
        self.prior: Prior = prior or {}
        self.begun, self.settled, self.finished = 0, -1, False
        self._most: dict[tuple[Event, Events, float], int] = {}
        self._end: tuple[int, End | None] | None = None
        self._begin()

    def _begin(self, frozen: Mapping[str, int] | None = None, settled: int = 0) -> None:
        use = self.account.anew()
        use.frozen, use.settled = dict(frozen or {}), settled
        use.admits = self._within if self.rule.then == "freeze" else None
        self._end = None

    def told_before(self, prior: Prior) -> None:
        """Other runs told more meanwhile; rounds that have begun stay what they were."""
        if prior != self.prior:
            self.prior = prior
            self._begin(self._frozen_until(self._settled()), self._settled())

    def settle(self, frozen: Mapping[str, int], number: int) -> None:
        """Rounds up to ``number`` were begun before a kill, with clients ``frozen``: they are trained again as they
        were, since another cohort would get noise that was drawn already."""
        self.settled = number
        self._begin(frozen, number)

    def _settled(self) -> int:
        return max(self.begun, self.settled)

    def end(self, done: int = 0) -> End | None:
        """The first round after ``done`` that is refused; None if all that are planned can be trained."""
        if self._end is None or (self._end[1] is not None and self._end[1].number <= done) or self._end[0] > done:
            self._end = done, self._find(done)
        return self._end[1]

    def require(self, number: int) -> None:
        """Check that a round, or what is sent before the first (0), may be trained.

        Raises:
            BudgetSpentError: it would pass a budget.
        """
        if (end := self.end(max(0, number - 1))) is not None and end.number <= number:
            raise BudgetSpentError(f"{end.sentence()}; {self.remedy()}")
        self.begun, self.finished = number, False

    def remedy(self) -> str:
        """What to do to go on."""
        more = " (who is frozen stays so: start a run)" if self.rule.then == "freeze" else ""
        return f"to go on, raise privacy.budget.epsilon{more}"

    def frozen(self, number: int) -> set[str]:
        """The clients that are not drawn in a round."""
        return self.account.participation.frozen_in(number)

    def spent(self, client: str, number: int) -> dict[str, float]:
        """Epsilon of a client after a round, by channel with a budget, with what earlier runs told."""
        use = self.account.participation.use(client, number)
        return {channel: self._epsilon(channel, client, use, number) for channel in self.limits}

    def notes(self, rounds: int) -> list[str]:
        """What is to be said before training: where it will end, and who will be frozen when."""
        found = []
        if (end := self.end()) is not None:
            found.append(f"privacy.budget ends training after round {end.number - 1} of {rounds}: {end.sentence()}")
        last = rounds if end is None else max(0, end.number - 1)
        frozen = sorted((first, client) for client, first in self.account.participation.frozen.items() if first <= last)
        if frozen:
            shown = ", ".join(f"{client} from round {first} on" for first, client in frozen[:5])
            more = f", and {len(frozen) - 5} more" if len(frozen) > 5 else ""
            found.append(f"privacy.budget freezes {shown}{more}: they are not drawn any more")
        return found

    def state_dict(self) -> StateDict:
        """``frozen``, by client the first round in which it was not drawn, ``begun`` and ``finished``."""
        return {"frozen": self.frozen_so_far(), "begun": self.begun, "finished": self.finished}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state.

        Raises:
            StateError: it is of other clients.
        """
        _, values = tensors_and_values(state, ["frozen", "begun", "finished"])
        frozen = values["frozen"]
        known = isinstance(frozen, Mapping) and all(client in self.account.plan.by_name for client in frozen)
        require_value(known and all(map(is_count, frozen.values())), "frozen", "is not of this run's clients")
        require_value(isinstance(values["finished"], bool), "finished", "is neither true nor false")
        require_value(is_count(values["begun"]), "begun", "is no round")
        self.begun, self.finished = values["begun"], values["finished"]
        # rounds after the checkpoint that had begun keep who was frozen in them
        later = {c: first for c, first in self._frozen_until(self.settled).items() if first > self.begun}
        self._begin({**later, **frozen}, self._settled())

    def frozen_so_far(self) -> dict[str, int]:
        """By client that was not drawn in a round that has begun, the first of them."""
        return self._frozen_until(self.begun)

    def _frozen_until(self, number: int) -> dict[str, int]:
        return {client: first for client, first in self.account.participation.frozen.items() if first <= number}

    def _find(self, done: int) -> End | None:
        names = list(self.account.plan.by_name)
        least = max(1, self.config.training.min_clients)
        for number in range(max(done + (done > 0), self.settled + 1), self.config.training.rounds + 1):
            cohort = self.account.participation.cohort(number) if number else []
            if number and len(cohort) < least and self.frozen(number):
                return End(number, f"privacy.budget left {len(cohort)} clients to draw, and it takes {least}")
            if self.rule.then == "freeze" and not (number == 0 or self.account.everybody_is_asked(number)):
                continue
            for client in names if self.account.everybody_is_asked(number) else cohort:
                use = self.account.participation.use(client, number)
                if not self._within(client, use, number):
                    return End(number, self._why(client, use, number))
        return None

    def _why(self, client: str, use: ClientUse, number: int) -> str:
        for channel, limit in self.limits.items():
            if (epsilon := self._epsilon(channel, client, use, number)) > limit:
                earlier = " with what earlier runs told" if self.prior.get(client, {}).get(channel) else ""
                return (
                    f"{client} would have told {channel} of epsilon {epsilon:.4g} at delta {self.delta:g}{earlier}; "
                    f"privacy.budget.epsilon is {limit:g}"
                )
        raise AssertionError("nothing is above a budget")

    def _within(self, client: str, use: ClientUse, number: int) -> bool:
        """Whether a client stays within all budgets with a use by the end of a round."""
        for channel, limit in self.limits.items():
            event, before = self._told(channel, client, use, number)
            if event is not None and event.kind == "sampled-gaussian":
                if event.times > self._most_steps(event, before, limit):
                    return False
            elif self._epsilon(channel, client, use, number) > limit:
                return False
        return True

    def _epsilon(self, channel: str, client: str, use: ClientUse, number: int) -> float:
        event, before = self._told(channel, client, use, number)
        return composed_epsilon(together([*before, event] if event is not None else before), self.delta)

    def _told(self, channel: str, client: str, use: ClientUse, number: int) -> tuple[Event | None, Events]:
        return self.account.events(channel, client, use, number), self.prior.get(client, {}).get(channel, ())

    def _most_steps(self, event: Event, before: Events, limit: float) -> int:
        """The most steps of DP-SGD within a limit, of those that the plan can have: few distributions are composed."""
        key = event._replace(times=0), before, limit
        if key not in self._most:
            per_round = self.config.training.local_steps
            low, high = 0, self.config.training.rounds + 1  # rounds that are within, and that are not or not planned
            while high - low > 1:
                # from the end: most plans stay within
                middle = high - 1 if low == 0 and high == self.config.training.rounds + 1 else (low + high) // 2
                steps = event._replace(times=middle * per_round)
                within = composed_epsilon(together([*before, steps]), self.delta) <= limit
                low, high = (middle, high) if within else (low, middle)
            self._most[key] = low * per_round
        return self._most[key]


def budget_of(config: ExperimentConfig, account: EpsilonAccount) -> Budget | None:
    """The budget that a config asks for; None without ``privacy.budget``."""
    return Budget(config, account) if config.privacy.budget is not None else None
