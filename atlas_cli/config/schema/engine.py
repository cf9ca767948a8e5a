"""The part of the config that says where and how a run computes; what is computed stays the same, to rounding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section, quantity
from atlas_cli.units import parse_bytes, parse_time


class EngineConfig(Section):
    """Where clients compute, and what is spent to be faster."""

    name: Literal["in-process", "ray"] = Field(
        "in-process",
        description="Where clients compute: in the process of the command, or with `ray` in processes of a Ray cluster "
        "while the server stays in that of the command.",
    )
    address: str | None = Field(
        None,
        description="The address of a Ray cluster that runs: `auto` (this machine's) or host:port. With `null` one is "
        "started here for the run, on loopback. Whoever has its token can run code on it: a cluster is one trust "
        "domain.",
        examples=["auto"],
    )
    hosts: int | None = Field(
        None,
        ge=1,
        description="How many processes the clients share; without it, as many as have room, at most one a client of a "
        "round.",
        examples=[2],
        json_schema_extra={"unit": "processes"},
    )
    cpus: float = Field(
        1.0, gt=0, description="How many CPUs Ray reserves for each process.", json_schema_extra={"unit": "CPUs"}
    )
    gpus: float = Field(
        0.0,
        ge=0,
        description="How many GPUs Ray reserves for each process, also a part of one. With 0 clients compute on the "
        "CPU.",
        json_schema_extra={"unit": "GPUs"},
    )
    timeout: Annotated[str, quantity(parse_time)] = Field(
        "10 min",
        description="A process that answers none of its clients for so long is killed, and they are dropped.",
    )
    fuse: Literal["auto", "off"] = Field(
        "auto",
        description="With `auto`, clients of the same split layer are computed together, their real tokens in one row; "
        "on Ray those of the same process. With `off` each is computed by itself, padded.",
    )
    prefix_cache: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="Memory for the outputs of the blocks below a client's lowest adapter, which are then computed "
        "once a text. What does not fit goes to a temporary folder under `output.dir`. With `null` they are computed "
        "anew in every step.",
        examples=["512 MiB"],
    )
    offload: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="Memory for what those clients own that take no part in a round. What does not fit goes to a "
        "temporary folder under `output.dir`. With `null` all clients stay in memory.",
        examples=["1 GiB"],
    )
    kept_texts: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="Memory in each process for what codecs keep of texts (`delta`, `feedback`) at both ends. What "
        "does not fit goes to a temporary folder under `output.dir`. With `null` all of it stays in memory.",
        examples=["1 GiB"],
    )
    prepack: Annotated[str, quantity(parse_bytes)] | None = Field(
        "2 GiB",
        description="Memory in each process for copies of frozen weights in the order in which a CPU's kernels read "
        "them, whole layers from the first block on; `null` makes none, and `compile` takes none. Results differ by "
        "rounding.",
    )
    pinned: bool = Field(
        False,
        description="On CUDA, texts and what `prefix_cache` read from disk lie in page-locked memory and are copied on "
        "a stream of their own while the GPU computes. Elsewhere nothing changes.",
    )
    compile: bool = Field(
        False,
        description="Compile the parts of blocks that no adapter touches with `torch.compile`. It takes a minute or "
        "more before the first step, and results differ by rounding.",
    )
    cuda_graphs: bool = Field(
        False,
        description="On CUDA, replay the passes that clients share as CUDA graphs, with texts padded to a multiple of "
        "32 tokens. Results differ by rounding. Elsewhere nothing changes.",
    )
