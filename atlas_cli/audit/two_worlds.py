"""Update indistinguishability: can anybody tell from a merged adapter whether a client took part?

Two worlds that differ in one client run many times over, each time with other batches, orders, dropout and noise. A
classifier is fitted on half of the runs and judged on the other half. It gives a lower bound on what can be told: an
AUC near a half does not prove that nothing can. With (epsilon, delta)-differential privacy TPR <= e^epsilon FPR + delta
for any test, so that exact intervals of both rates (Clopper and Pearson) give a lower bound on epsilon (Jagielski et
al., 2006.07709). Controls: a world against itself, whose interval must contain a half, and an injected leak, which must
be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_cli.audit.epsilon_gap import EpsilonGap
from atlas_cli.audit.figures import auc_interval, clopper_pearson
from atlas_cli.config.schema.faults import CrashConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.federation import Federation
from atlas_cli.reports.progress import Progress
from atlas_cli.seeding import derive, torch_generator

MIN_RUNS = 200  # of each world
PROBES = 4  # random directions in which the merged change of a layer is looked at
LEAK = 3.0  # the injected leak, in standard deviations of a feature

Runs = NDArray[np.float64]  # (runs, features)


@dataclass(frozen=True)
class Verdict:
    """How well two worlds can be told apart.

    Attributes:
        auc, low, high: the AUC on runs that the classifier was not fitted on, with its 95 % interval.
        advantage: TPR - FPR at the threshold that is best on the half for fitting.
        epsilon: the lower bound at ``delta`` with 95 % confidence; 0 if nothing is shown.
        runs: the number of runs of each world.
    """

    auc: float
    low: float
    high: float
    advantage: float
    epsilon: float
    delta: float
    runs: int


def distinguish(present: Runs, absent: Runs, delta: float = 1e-5, seed: int = 0) -> Verdict:
    """Fit a logistic regression between the runs of two worlds, and judge it on held-out runs.

    Raises:
        ConfigError: fewer than 200 runs of a world.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    runs = min(len(present), len(absent))
    if runs < MIN_RUNS:
        raise ConfigError(f"{runs} runs of a world are too few for an interval; give {MIN_RUNS} or more", key="--runs")
    half = runs // 2
    fitted = np.concatenate([present[:half], absent[:half]])
    truth = np.arange(2 * half) < half
    scaler = StandardScaler().fit(fitted)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(fitted), truth)

    def score(samples: Runs) -> NDArray[np.float64]:
        return np.asarray(model.decision_function(scaler.transform(samples)))

    threshold = _best_threshold(score(present[:half]), score(absent[:half]))
    positive, negative = score(present[half:runs]), score(absent[half:runs])
    hits, alarms, tested = int((positive > threshold).sum()), int((negative > threshold).sum()), runs - half
    value, low, high = auc_interval(positive, negative, seed)
    epsilon = epsilon_bound(hits, alarms, tested, delta)
    return Verdict(value, low, high, (hits - alarms) / tested, epsilon, delta, runs)


def epsilon_bound(hits: int, alarms: int, tested: int, delta: float) -> float:
    """A 95 % lower bound on epsilon from true and false positives among ``tested`` runs of each world.

    The test and its complement are both used, each of the four one-sided ends at 1.25 %.
    """
    level = 1 - 0.05 / 2  # two-sided intervals of either rate, at half of the error each
    bounds = [0.0]
    for right, wrong in ((hits, alarms), (tested - alarms, tested - hits)):
        low, high = clopper_pearson(right, tested, level)[0], clopper_pearson(wrong, tested, level)[1]
        if low > delta:
            bounds.append(math.log((low - delta) / high))
    return max(bounds)


def two_worlds(
    federation: Federation, client: str, runs: int, quiet: Progress, tell: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Compare rounds with and without a client, with both controls; the federation is left unchanged.

    Raises:
        ConfigError: no such client, too few runs, or nothing that is merged.
    """
    if client not in federation.clients:
        raise ConfigError(f"no client is named {client!r}", key="--without")
    if runs < MIN_RUNS:
        raise ConfigError(f"give {MIN_RUNS} or more, got {runs}", key="--runs")
    if len(federation.members(federation.group_of(client))) < 2:
        raise ConfigError(f"{client} is alone in its task group: without it nothing is merged", key="--without")
    if not federation.aggregator.exchanges:
        raise ConfigError("clients send no updates, so there is none to compare", key="aggregation.method")
    worlds: dict[str, Runs] = {}
    for i, (name, without) in enumerate((("with", None), ("without", client), ("again", None))):
        worlds[name] = _world(federation, client, without, range(i * runs, (i + 1) * runs), quiet, tell)
    leaked = worlds["again"].copy()
    leaked[:, 0] += LEAK * leaked[:, 0].std()
    delta = federation.config.privacy.delta
    verdict = distinguish(worlds["with"], worlds["without"], delta)
    return {
        "client": client,
        "rounds": federation.config.training.rounds,
        "worlds": asdict(verdict),
        "control: a world against itself": asdict(distinguish(worlds["with"], worlds["again"], delta)),
        "control: injected leak": asdict(distinguish(worlds["with"], leaked, delta)),
        "gap": asdict(epsilon_gap(federation, client, verdict.epsilon)),
    }


def epsilon_gap(federation: Federation, client: str, lower: float) -> EpsilonGap:
    """The lower bound of one round beside the epsilon of a client in merged adapters, where the account covers it.

    It covers the noise that the server adds to a mean of fixed size (who is left out counts as no change), and not what
    the server learns from activations and passes on to others.
    """
    config, protection = federation.config, federation.protection
    updates, upper, why = config.privacy.updates, None, ""
    if updates is None:
        why = "no noise on what clients send (privacy.updates)"
    elif updates.where == "client":
        why = "with privacy.updates.where: client it is known who takes part, which is what was told here"
    elif protection.server_trains():
        why = "the server learns from activations and passes it on (set training.labels: client and server.rank: 0)"
    else:
        upper = protection.account.epsilon("updates", federation.group_of(client), 1)
        if math.isinf(upper):
            upper, why = None, "there is no noise (privacy.updates.noise_multiplier: 0)"
    return EpsilonGap("a client", config.privacy.delta, lower, upper, why)


def _world(
    federation: Federation,
    client: str,
    without: str | None,
    numbers: range,
    quiet: Progress,
    tell: Callable[[int], None],
) -> Runs:
    config, state = federation.config, RunState(federation)
    initial = state.capture()
    training = config.training
    faults = config.faults
    if without is not None:
        # each round anew it would have to be named: one round is compared
        faults = faults.model_copy(update={"crash_at": {**faults.crash_at, without: CrashConfig(round=1)}})
    found = []
    try:
        for number in numbers:
            reseed(federation, derive(config.seed, "worlds", number))
            federation.config = federation.config.model_copy(
                update={"faults": faults, "training": training.model_copy(update={"rounds": 1})}
            )
            train(federation, Recorder(federation, None, quiet), scored=False)
            found.append(_merged(federation, client))
            state.restore(*initial)
            tell(number + 1)
    finally:
        state.restore(*initial)
        reseed(federation, config.seed)
        federation.config = config
    return np.array(found)


def reseed(federation: Federation, seed: int) -> None:
    """Give all parties another seed for batches, orders, dropout and noise; weights and data stay as they are."""
    federation.config = federation.config.model_copy(update={"seed": seed})
    for party in federation.clients.values():
        party.seed = seed
    federation.server.seed = seed
    federation.aggregator.method.seed = seed
    federation.protection.install(seed)


def _merged(federation: Federation, client: str) -> list[float]:
    """Random linear functions of the merged dW of every layer, which do not depend on its factors."""
    group, features = federation.aggregator.members[client].group, []
    for path, factors in federation.aggregator.groups[group].merged.items():
        draw = torch_generator(0, "worlds-probe", path)
        right = torch.randn(factors.A.shape[1], PROBES, generator=draw)
        left = torch.randn(factors.B.shape[0], PROBES, generator=draw)
        image = factors.B.cpu().double() @ (factors.A.cpu().double() @ right.double())
        features += (left.double() * image).sum(0).tolist()
    return features


def _best_threshold(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    candidates = np.concatenate([positive, negative])
    gains = [(positive > c).mean() - (negative > c).mean() for c in candidates]
    return float(candidates[int(np.argmax(gains))])
