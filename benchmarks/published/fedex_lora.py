"""FedEx-LoRA: what the mean of factors misses is added to the base."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth, zeros_like
from published.planned import messages, plan, setup_bytes

PAPER = Paper("FedEx-LoRA", "2410.09432", "https://arxiv.org/abs/2410.09432")
ROUNDS = 5
SETTING = (
    "3 clients with all 12 blocks, rank 4, 5 rounds, float32; the first sending of the model is counted. Residuals "
    "cross as stacked factors"
)


def claims() -> Iterator[Claim]:
    """An exact mean, and its price."""
    yield Claim(
        "mean of factors and residual are the mean of the products",
        where="eq. 5",
        setting="3 clients of weights 1 to 3, equal and unequal ranks, one layer of 24 x 40, normal factors, float64",
        figures=(Figure("ranks 4, 4, 4", "0", within=1e-12), Figure("ranks 2, 4, 8", "0", within=1e-12)),
        measure=lambda: [error((4, 4, 4)), error((2, 4, 8))],
    )
    for name, model, targets, published in (
        ("RoBERTa-base", "roberta-base", ["query", "value"], ("0.979", "0.972")),
        ("GPT-2", "gpt2", ["attn.c_attn"], ("0.917", "0.886")),
    ):
        yield Claim(
            f"what crosses relative to FedEx, {name}",
            where="table 8",
            setting=f"{name}, {SETTING}; adapters on {' and '.join(targets)}",
            changed="What is counted could not be read: the first sending of the model is the only way found in which "
            "FedIT comes near to FedEx.",
            figures=tuple(Figure(method, text) for method, text in zip(("FedIT", "FFA"), published, strict=True)),
            interval=0.01,
            ranked=True,
            measure=lambda model=model, targets=targets: relative(model, targets),
            found="Figures of full fine-tuning (9.475 and 7.032 times FedEx) could not be derived; atlas has none."
            if name == "RoBERTa-base"
            else "The share of FFA in what FedIT sends points to more adapted layers than the one of attention, or "
            "to more clients.",
        )


def error(ranks: tuple[int, ...]) -> float:
    """Of what the changed base is worth after a first merge."""
    sent = updates([drawn(rank, k) for k, rank in enumerate(ranks)])
    return missed(worth(merged(made("fedex"), zeros_like(drawn(max(ranks), "start")), sent)), exact(sent))


def relative(model: str, targets: list[str]) -> list[float]:
    """Bytes of a client with FedIT and FFA, by those with FedEx."""
    totals = {}
    for method in ("fedex", "zero-pad", "ffa"):
        clients = {"a": {"rank": 4, "count": 3}}
        planned = plan(model, 12, clients, lora={"targets": targets}, aggregation={"method": method})
        sent = messages(planned)
        totals[method] = setup_bytes(planned) + ROUNDS * (sum(sent.end_up) + sum(sent.end_down))
    return [totals["zero-pad"] / totals["fedex"], totals["ffa"] / totals["fedex"]]
