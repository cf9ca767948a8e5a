"""Facts about other systems that can be found out by running them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contestants.flower import missing

from atlas_cli.errors import AtlasError

# what is asked of the registry that pip uses: the names, and one pin of FederatedScope 0.3.0's setup.py
ASKED = (
    ("FederatedScope-LLM", "federatedscope"),
    ("FederatedScope-LLM", "scipy==1.7.3"),
    ("OpenFedLLM", "openfedllm"),
)


def atlas_commit() -> dict[str, Any]:
    """The last commit that changed the package, and whether it is changed since: what surrounds it is of no account."""
    root = Path(__file__).parents[2]
    commands = {"commit": ["log", "-1", "--format=%H"], "changed": ["status", "--porcelain"]}
    told = {key: _output(["git", "-C", str(root), *words, "--", "atlas_cli"]) for key, words in commands.items()}
    return {"commit": told["commit"], "changed": bool(told["changed"])}


def load_now() -> float | None:
    """Processes that want a core, mean of the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of packages of this environment."""
    return {name: version(name) for name in packages}


def versions_in(python: Path) -> dict[str, str]:
    """Of flwr, and of what else may differ, in Flower's environment."""
    told = "import json; from importlib.metadata import version as v; print(json.dumps({n: v(m) for n, m in %r}))"
    names = [(name if name == "flwr" else f"{name} beside flwr", name) for name in ("flwr", "ray", "transformers")]
    return json.loads(_output([str(python), "-c", told % names]))


def installs() -> list[dict[str, str]]:
    """What pip says when it is asked for other systems, and on which Python."""
    found = []
    for system, requirement in ASKED:
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", folder, requirement]
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["downloaded"]
        python = ".".join(map(str, sys.version_info[:2]))
        found.append({"system": system, "requirement": requirement, "python": python, "said": said[-1]})
    return found


def flower(python: Path | None) -> dict[str, Any] | None:
    """What ``flower_facts.py`` finds in Flower's environment; None without one.

    Raises:
        AtlasError: it is named, and does not have what it takes.
    """
    if python is None:
        return None
    if why := missing(python):
        raise AtlasError(f"no Flower: {why}")
    return json.loads(_output([str(python), str(Path(__file__).with_name("flower_facts.py"))]))


def peft() -> dict[str, Any]:
    """How PEFT adds adapters of unequal ranks, and whether the Trainer can be resumed."""
    import torch
    from peft import get_peft_model
    from transformers import GPT2Config, GPT2Model, Trainer

    ranks, found = (2, 4), {}
    for way in ("linear", "svd", "cat"):
        model = get_peft_model(GPT2Model(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32)), _lora(ranks[0]))
        model.add_adapter("other", _lora(ranks[1]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        try:
            model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "merged", combination_type=way)
            found[way] = f"rank {model.peft_config['merged'].r}"
        except ValueError as error:
            found[way] = str(error)
    return {
        "ranks": list(ranks),
        **found,
        "resumes": "resume_from_checkpoint" in inspect.signature(Trainer.train).parameters,
    }


def _lora(rank: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, target_modules=["c_attn"], fan_in_fan_out=True)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AtlasError(f"{command[0]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return (done.stdout.splitlines() or [""])[-1]
