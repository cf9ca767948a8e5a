"""How much activations reveal of the tokens below them, at every split layer of a model.

Each layer has three measures, on the pretrained model with untrained adapters (which add nothing):
- recovery: the share of tokens that two attacks find, nearest embedding and ridge inverter (``audit.attacks``);
- distance correlation of embeddings and activations of tokens, squared, bias-corrected (Szekely and Rizzo,
  1310.2926): 0 for independence in the mean, 1 for a similarity;
- dFIL, the trace of the Fisher information of the activation about the embedding by its dimension (Guo et al.,
  2209.10119), for Gaussian noise as large as the activation (root mean square over elements), in units of the
  embedding's mean square. So 1 / dFIL is the least mean squared error of any unbiased reconstruction, as a share of the
  embedding's; noise of s times that size divides dFIL by s^2. The trace of J^T J is estimated as the mean of |J^T v|^2
  over random signs v (Hutchinson 1989).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_cli.audit.attacks import ridge_inverter
from atlas_cli.audit.attacks._recovery import nearest
from atlas_cli.audit.evidence import Tokens, token_vectors, tokens_of
from atlas_cli.audit.figures import share_interval
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import collate
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import as_inputs
from atlas_cli.models.halves.split import run_half
from atlas_cli.planning.cuts.choice import SplitChoice, choose_split
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.devices.devices import BUILT_IN, client_devices, server_device
from atlas_cli.privacy.mechanisms.nopeek import distance_correlation
from atlas_cli.seeding import numpy_generator, torch_generator
from atlas_cli.tasks.contract import Feature

PAIRS = 800  # tokens whose distances are compared
TEXTS_OF_TRACE = 16
PROBES = 4  # random signs a text
BATCH = 16
DEFAULT_DEVICE = BUILT_IN["laptop-8gib"]


@dataclass(frozen=True)
class Recovered:
    """The share of tokens that an attack finds, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Depth:
    """The measures of one split layer; ``recovered`` is by attack."""

    layer: int
    recovered: dict[str, Recovered]
    distance_correlation: float
    dfil: float

    @property
    def leakage(self) -> float:
        """The largest upper end of the attacks' intervals: the most that an attack may recover."""
        return max(found.high for found in self.recovered.values())


def measure_depth(
    federation: Federation, most: int = 256, tell: Callable[[int], None] = lambda layer: None
) -> list[Depth]:
    """Measure every split layer from 1, on ``most`` training texts of clients and as many others for the inverter.

    Raises:
        Inapplicable: too few texts.
    """
    seed = federation.config.seed
    private = _sample([f for c in federation.clients for f in federation.train_features(c)], most, seed)
    public = _sample([f for group in federation.data.values() for f in group.test], most, seed)
    layers = []
    for layer in range(1, federation.base.n_layers + 1):
        tell(layer)
        layers.append(_measure(federation, layer, private, public))
    return layers


def _measure(federation: Federation, layer: int, private: Sequence[Feature], public: Sequence[Feature]) -> Depth:
    embedding = token_vectors(federation.base).cpu()
    seen, material = (_activations(federation, layer, texts) for texts in (private, public))
    invert = ridge_inverter.fit(material, embedding)
    guesses = {"nearest-embedding": seen.hidden, "ridge-inverter": invert(seen.hidden)}
    recovered = {}
    for name, vectors in guesses.items():
        right = (nearest(vectors, embedding) == seen.ids).double()
        hits = torch.zeros(len(private), dtype=torch.float64).index_add_(0, seen.texts, right)
        recovered[name] = Recovered(*share_interval(hits.tolist(), torch.bincount(seen.texts).tolist()))
    chosen = torch.linspace(0, len(seen.ids) - 1, min(PAIRS, len(seen.ids))).long()
    correlation = distance_correlation(embedding[seen.ids[chosen]].double(), seen.hidden[chosen].double())
    return Depth(layer, recovered, float(correlation), _dfil(federation, layer, private[:TEXTS_OF_TRACE]))


def trace_of_squares(function: Callable[[Tensor], Tensor], x: Tensor, probes: int, generator: torch.Generator) -> float:
    """An unbiased estimate of trace(J^T J), the sum of squares of the Jacobian of ``function`` at ``x``."""
    x = x.detach().requires_grad_()
    output = function(x)
    total = 0.0
    for _ in range(probes):
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        (gradient,) = torch.autograd.grad(output, x, signs, retain_graph=True)
        total += float(gradient.double().square().sum())
    return total / probes


def _dfil(federation: Federation, layer: int, texts: Sequence[Feature]) -> float:
    """The dFIL, computed for one text at a time without padding, averaged over texts."""
    base, generator = federation.base, torch_generator(federation.config.seed, "dfil", layer)
    half, embedding = base.client_half(layer), base.model.get_input_embeddings()  # type: ignore[operator]
    found = []
    for text in texts:
        ids = torch.tensor([text["input_ids"]], device=federation.device)
        mask, embedded = torch.ones_like(ids), embedding(ids).detach()

        def activate(x: Tensor, mask: Tensor = mask) -> Tensor:
            return run_half(half, mask, inputs_embeds=x).float()

        with torch.no_grad():
            noise = activate(embedded).double().square().mean()
        information = trace_of_squares(activate, embedded, PROBES, generator) / noise
        found.append(float(information * embedded.double().square().mean() / embedded.numel()))
    return sum(found) / len(found)


@torch.no_grad()
def _activations(federation: Federation, layer: int, texts: Sequence[Feature]) -> Tokens:
    half, task = federation.base.client_half(layer), next(iter(federation.data.values())).task
    parts = []
    for start in range(0, len(texts), BATCH):
        # labels are not looked at
        batch = collate(task, texts[start : start + BATCH], federation.pad)
        inputs, mask = as_inputs(batch.inputs(), federation.device)
        hidden = run_half(half, mask, **inputs)
        parts.append(tokens_of(hidden, batch, start))
    return Tokens.joined(parts)


def _sample(texts: Sequence[Feature], most: int, seed: int) -> list[Feature]:
    order = numpy_generator(seed, "depth").permutation(len(texts))[:most]
    return [texts[i] for i in order]


def costs_by_layer(config: ExperimentConfig, hf_config: object) -> SplitChoice:
    """The table for the first client with a device, else for a thin laptop, at the largest rank.

    Raises:
        ConfigError: a device is unknown, or has no memory figure.
    """
    device = next(iter(client_devices(config).values()), DEFAULT_DEVICE)
    ranks = [spec.rank for spec in config.client_kinds()]
    sizes = [max(r.values()) if isinstance(r, dict) else r for r in ranks if r != "auto"]
    setting = Setting(
        batch=config.training.batch_size,
        tokens=config.training.max_length,
        rank=max((size for size in sizes if isinstance(size, int)), default=8),
        targets=config.lora.targets if config.lora.targets == "auto" else tuple(config.lora.targets),
        dtype=config.model.dtype,
        fused_gelu=config.model.fused_gelu,
    )
    return choose_split(config.model.name, setting, device, server_device(config), hf_config=hf_config)
