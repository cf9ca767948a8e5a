"""A release, tried: build it, check it as an index does, install the wheel alone, and train where no checkout is.

Run it in an environment with the extra dev. It takes a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
HOLDS = ("atlas_cli/py.typed", "atlas_cli/examples/quickstart.yaml", "atlas_cli/examples/data/ner-sample.conll")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command; a failure ends the script."""
    print("$", *command, flush=True)
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}")


def check_files(wheel: Path) -> None:
    """The wheel has what a user without a checkout needs."""
    names = ZipFile(wheel).namelist()
    missing = [name for name in HOLDS if name not in names]
    if missing or not any(name.endswith("licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name} lacks {', '.join(missing) or 'LICENSE'}")


def train(wheel: Path, folder: Path) -> None:
    """Install the wheel into an environment of its own, and train the example that downloads nothing.

    Its dependencies are those installed here, by a path file, which does not show the checkout.
    """
    environment, here = folder / "env", folder / "work"
    venv.create(environment, with_pip=True)
    here.mkdir()
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    own_packages = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    (Path(own_packages) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "--no-deps", "--ignore-installed", wheel)
    own = {"PYTHONPATH": "", "ATLAS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    for arguments in (["--version"], ["doctor"], ["init", "--list"], ["train", "offline"]):
        run(python, "-P", "-m", "atlas_cli", *arguments, cwd=here, **own)
    (manifest,) = here.glob("runs/*/manifest.json")
    status = json.loads(manifest.read_text(encoding="utf-8"))["status"]
    if status != "finished":
        sys.exit(f"{manifest}: {status}")


def main() -> None:
    """Build, check, install, train."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--outdir", folder / "dist")
        files = sorted((folder / "dist").iterdir())
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        (wheel,) = (file for file in files if file.suffix == ".whl")
        check_files(wheel)
        train(wheel, folder)


main()
