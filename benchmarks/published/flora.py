"""FLoRA: adapters are stacked, and what the stack costs."""

from __future__ import annotations

from collections.abc import Iterator

from published.claim import Claim, Figure, Paper
from published.merging import drawn, exact, made, merged, missed, updates, worth, zeros_like
from published.planned import messages, plan, setup_bytes

PAPER = Paper("FLoRA", "2409.05976", "https://arxiv.org/abs/2409.05976")
ROUNDS, CLIENTS = 3, 10
TINY_LLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def claims() -> Iterator[Claim]:
    """An exact mean, and bytes."""
    yield Claim(
        "the stack is the mean of the products, at unequal ranks",
        where="eq. 6",
        setting="clients of ranks 2, 4, 8 and weights 1 to 3, one layer of 24 x 40, normal factors, float64",
        figures=(Figure("relative error", "0", within=1e-12),),
        measure=lambda: [error()],
    )
    for name, delivered, found in (
        (
            "",
            ROUNDS,
            "With the model counted once, a sixth is the model. What is too much is the last delivery: see below.",
        ),
        (", without the last delivery", ROUNDS - 1, "This way of counting was found after the one above."),
    ):
        yield Claim(
            f"bytes over 3 rounds, relative to full fine-tuning{name}",
            where="communication of FedIT and FLoRA",
            setting="TinyLlama's sizes (22 blocks of width 2,048), 10 clients, rank 16 on all linear layers, float32; "
            "the first sending of the model is counted; full fine-tuning sends the model up and down in each round",
            changed="Which layers are adapted, and what is counted, could not be read: the setting is the usual one.",
            figures=(Figure("FedIT", "0.177"), Figure("FLoRA", "0.215")),
            interval=0.05,
            ranked=True,
            measure=lambda delivered=delivered: [share("zero-pad", delivered), share("flora", delivered)],
            found=found,
        )


def error() -> float:
    """Of what the base changes by."""
    sent = updates([drawn(rank, rank) for rank in (2, 4, 8)])
    return missed(worth(merged(made("flora"), zeros_like(drawn(8, "start")), sent)), exact(sent))


def share(method: str, delivered: int) -> float:
    """Bytes of a client, as a share of those of a model that goes down and up in each round."""
    planned = plan(
        "llama-7b",
        22,
        {"a": {"rank": 16, "count": CLIENTS}},
        config=TINY_LLAMA,
        lora={"targets": TARGETS},
        aggregation={"method": method},
    )
    sent, model = messages(planned), setup_bytes(planned)
    return (model + ROUNDS * sum(sent.end_up) + delivered * sum(sent.end_down)) / (2 * ROUNDS * model)
