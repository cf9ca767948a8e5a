"""The optional parts of atlas, and the command that installs one where the user is."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.package_folder import PACKAGE_FOLDER

DISTRIBUTION = "atlas-cli"  # the name that pip knows the package by
EXTRAS = {
    "data": "data sets from the hub, and Parquet files",
    "gguf": "models in GGUF files, among them the packaged smollm2-135m and gemma-3-270m",
    "quantization": "frozen weights in 4 or 8 bits",
    "privacy": "epsilon of the noise that the mechanisms under privacy add",
    "text": "scores of generated text: ROUGE, BLEU and chrF",
    "ray": "clients, and the runs of a sweep, in processes of a cluster",
    "tensorboard": "the tracker tensorboard",
    "wandb": "the tracker wandb (Weights & Biases)",
    "mlflow": "the tracker mlflow",
    "trackio": "the tracker trackio",
}


def install_command(extra: str) -> str:
    """What to type to get an extra: in a checkout with the releases that atlas is tested with, else by its name.

    Double quotes are understood by every shell, PowerShell and cmd included.
    """
    checkout = PACKAGE_FOLDER.parent
    constraints = checkout / "constraints.txt"
    if not (constraints.is_file() and (checkout / "pyproject.toml").is_file()):
        return f'pip install "{DISTRIBUTION}[{extra}]"'
    if Path.cwd() == checkout:
        return f'pip install -c constraints.txt -e ".[{extra}]"'
    return f'pip install -c "{constraints}" -e "{checkout}[{extra}]"'
