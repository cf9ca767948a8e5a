"""Starts ``flower_rounds.py`` in an environment of its own that has Flower, and asks it for rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
from safetensors.torch import save_file

from atlas_cli.errors import AtlasError
from contestants.experiment import GROUP, Arena
from contestants.turns import Work

ROUNDS = 1000  # more than anybody waits for
PACKAGES = ("flwr[simulation]", "transformers", "peft")
BENCHMARKS = Path(__file__).parents[1]
# imported and not run as a script, so that Ray's processes find its functions under the same name
RUN = "from contestants.flower_rounds import main; main()"
# Ray runs workers at a lower priority (15), at which they would wait for all else that a busy machine does
_ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_worker_niceness": "0"}


def environment(folder: Path) -> Path:
    """The interpreter of a virtual environment with Flower, which is made where ``folder`` is none yet (minutes).

    It has atlas' torch; Flower pins versions of other packages that atlas cannot live with.

    Raises:
        AtlasError: pip could not install it, with its last line, or it does not have what it takes.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making {folder}, with Flower ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        packages = [*PACKAGES, f"torch=={torch.__version__.partition('+')[0]}"]
        done = subprocess.run([str(python), "-m", "pip", "install", *packages], capture_output=True, text=True)
        if done.returncode != 0:
            raise AtlasError(f"no Flower in {folder}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    if why := missing(python):
        raise AtlasError(f"no Flower in {folder}: {why}; remove the folder to have it made anew")
    return python


def missing(python: Path) -> str:
    """What keeps ``python`` from running the script: the last line of the error, or nothing."""
    needed = "import flwr, peft, ray, torch, transformers"
    try:
        done = subprocess.run([str(python), "-c", needed], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else f"{python}: {done.stderr.strip().splitlines()[-1]}"


class FlowerRounds:
    """A Flower simulation, one round a step; the first step also starts Ray and loads the model.

    Args:
        python: the interpreter of an environment for which ``missing`` has nothing to say.
    """

    def __init__(self, arena: Arena, python: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="atlas-flower-")
        folder = Path(self._folder.name)
        arena.stock.model.save_pretrained(folder / "model")
        save_file({n: t.contiguous() for n, t in arena.adapters().items()}, folder / "adapters.safetensors")
        save_file(arena.head().classifier.state_dict(), folder / "head.safetensors")
        settings = {
            "texts": [arena.texts(client) for client in arena.clients],
            "batch": arena.batch,
            "pad": arena.pad,
            "pooling": arena.federation.data[GROUP].task.pooling,
            "alpha": arena.alpha,
            "norm": arena.norm,
            "lr": arena.lr,
            "rounds": ROUNDS,
            "threads": torch.get_num_threads(),
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        self._log = (folder / "log.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), "-c", RUN, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(BENCHMARKS)},
        )

    def step(self) -> Work:
        """One round of all clients.

        Raises:
            AtlasError: the simulation ended or a client failed; with the last line of its log.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        for line in self._process.stdout:
            if line.startswith('{"samples"'):
                told = json.loads(line)
                if told["errors"]:
                    raise AtlasError(f"a Flower client failed: {told['errors'][0]}")
                return Work(told["samples"], told["tokens"])
        raise self._failed()

    def close(self) -> None:
        """End the simulation and remove its files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def _failed(self) -> AtlasError:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()] or ["no message"]
        return AtlasError(f"the Flower simulation ended: {lines[-1]}")
