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
        description="ray: clients compute in processes of a Ray cluster, the server in that of the command",
    )
    address: str | None = Field(
        None,
        description="of a Ray cluster that runs: auto (this machine's) or host:port; null: one is started here for the "
        "run, on loopback. Who has its token can run code on it: a cluster is one trust domain",
    )
    hosts: int | None = Field(
        None, ge=1, description="processes that clients share; default: as many as have room, a client of a round each"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each process")
    gpus: float = Field(0.0, ge=0, description="for each process, also a part of one; 0: clients compute on the CPU")
    timeout: Annotated[str, quantity(parse_time)] = Field(
        "10 min", description="a process that answers none of its clients for so long is killed, and they are dropped"
    )
    fuse: Literal["auto", "off"] = Field(
        "auto",
        description="auto: clients with the same split layer are computed together, their real tokens in one row; "
        "off: each by itself, padded, as ray always does",
    )
    prefix_cache: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="memory for the outputs of blocks below a client's lowest adapter, computed once per text, e.g. "
        "512 MiB; what does not fit goes to a temporary folder under output.dir; null: computed anew every step",
    )
    offload: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="memory for what clients own that take no part in a round, e.g. 1 GiB; what does not fit goes to a "
        "temporary folder under output.dir; null: all clients stay in memory",
    )
    prepack: Annotated[str, quantity(parse_bytes)] | None = Field(
        "2 GiB",
        description="memory in each process for copies of frozen weights in the order in which a CPU's kernels read "
        "them, whole layers from the first block on; null: none. Results differ by rounding; compile has none",
    )
    pinned: bool = Field(
        False,
        description="on CUDA: texts, and what prefix_cache read from disk, lie in page-locked memory and are copied on "
        "a stream of their own while the GPU computes; elsewhere nothing changes",
    )
    compile: bool = Field(
        False,
        description="torch.compile the parts of blocks that no adapter touches: a minute or more before the first "
        "step, and results differ by rounding",
    )
