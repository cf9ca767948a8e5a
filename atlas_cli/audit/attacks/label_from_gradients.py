"""Labels from the gradients that clients send under ``labels: client`` (U-shaped split).

The gradient of a text's mean cross-entropy with respect to what the head reads is W^T (p - y) / B for head weights W
(C, D): of p - y only the label's entry is below 0. The server knows W as it delivered it, so it solves for p - y and
takes the smallest entry; where there are more classes than elements, the smallest entry of W W^T (p - y).
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import UNSPLIT, Evidence, Step
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.federation.batches import batch_of
from atlas_cli.models.cut_parts import SENT
from atlas_cli.wire.messages import FeatureGradients


class Attack(BaseAttack):
    """Recovers the labels of texts or tokens."""

    channel = "feature-gradients"
    knows = "the head as delivered"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of labels found; chance is a random class, and the floor the most frequent class of the labels."""
        federation = evidence.federation
        if federation.config.mode != "split-federated":
            raise Inapplicable(UNSPLIT)
        if federation.config.training.labels == "server":
            raise Inapplicable("labels are sent to the server in the clear (training.labels: server)")
        hits, counts, classes, seen = [], [], 0, Counter[int]()
        for step in evidence.chosen_steps():
            if FeatureGradients not in step.messages:
                continue
            weights = _head(evidence, step)
            classes = max(classes, len(weights))
            gradients, labels = _by_label(evidence, step)
            scores = gradients @ (
                torch.linalg.pinv(weights.double()).float() if len(weights) <= weights.shape[1] else weights.T
            )
            for row, truth in zip(scores.split(1), labels, strict=True):
                right = row[0].argmin(-1) == truth
                known = truth >= 0
                hits.append(float(right[known].sum()))
                counts.append(float(known.sum()))
                seen.update(truth[known].tolist())
        if not hits:
            raise Inapplicable("no feature gradients were recorded")
        interval = share_interval(hits, counts)
        floor = seen.most_common(1)[0][1] / seen.total()
        return self.figure("labels found, share", interval, chance=1 / classes, examples=len(hits), floor=floor)


def _head(evidence: Evidence, step: Step) -> Tensor:
    """The weights (C, D) of the head as last delivered; a language-modelling head is frozen and known."""
    federation = evidence.federation
    group = federation.group_of(step.client)
    task = federation.data[group].task
    if task.causal_only:
        assert federation.base.lm_head is not None
        return federation.base.lm_head.weight.detach().float()  # type: ignore[operator]
    state = evidence.deliveries.head_at_round_start(step.client, step.round)
    matrices = [value for name, value in state.items() if value.dim() == 2 and not name.startswith(SENT)]
    by_token = step.batch.labels.shape == step.batch.input_ids.shape
    if len(matrices) != 1 or not (step.batch.labels.dim() == 1 or by_token):
        raise Inapplicable("only for a class a text or a token, and a linear head")
    if not task.has_classes:
        raise Inapplicable(f"labels of task group {group} are numbers, not classes")
    return matrices[0].float()


def _by_label(evidence: Evidence, step: Step) -> tuple[Tensor, Tensor]:
    """Gradients (B, L, D) and labels (B, L): one of each text, or of each token; below 0 where there is no label."""
    gradients = evidence.decoded(step, FeatureGradients).gradients.float()
    overall = (step.round - 1) * evidence.federation.config.training.local_steps + step.number
    labels = batch_of(evidence.true_labels, step.client, overall).labels
    if labels.dim() == 1:
        return gradients.sum(1, keepdim=True), labels[:, None]
    gradients = gradients[:, : labels.shape[1]]
    causal = evidence.federation.data[evidence.federation.group_of(step.client)].task.causal_only
    return (gradients[:, :-1], labels[:, 1:]) if causal else (gradients, labels)
