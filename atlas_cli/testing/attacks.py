"""A test of an attack, for its author's own tests: ``conformance.check("my-attack", "runs/a-recorded-run")``."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.audit.attacks import attack_of
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import MIN_EXAMPLES, Figure, Inapplicable
from atlas_cli.runs.directory import open_run


def check(name: str, run: str | Path, shadows: int = 0) -> Figure | str:
    """Attack a recorded run twice, and hold what is found against what every attack promises.

    Args:
        run: a run directory with recorded messages (section ``audit`` of its config).
        shadows: runs that an attack may train, as ``--lira`` says.

    Returns:
        The figure, or the reason why there is none.

    Raises:
        AssertionError: says which promise is broken.
        ConfigError: the attack breaks its contract.
    """
    folder = Path(run)
    before = _files(folder)
    found, again = (_attacked(name, folder, shadows) for _ in range(2))
    assert _files(folder) == before, "it changed the run directory"
    assert found == again, f"it finds something else the second time: {found}, then {again}"
    if isinstance(found, str):
        assert found and "\n" not in found, "the reason why it cannot be used is not one line"
        return found
    assert isinstance(found, Figure), f"attack gives {type(found).__name__}, and must give what self.figure gives"
    assert found.attack == name and found.what, "the figure is not the attack's own; make it with self.figure"
    assert 0 <= found.chance < found.best, f"chance is {found.chance}, and the best {found.best}"
    assert found.low <= found.value <= found.high, f"{found.value} is not within {found.low} and {found.high}"
    assert found.low >= 0 and found.high <= found.best, f"{found.low} to {found.high} is not within 0 and the best"
    assert found.examples >= MIN_EXAMPLES, f"an interval of {found.examples} examples, and {MIN_EXAMPLES} are needed"
    return found


def _attacked(name: str, folder: Path, shadows: int) -> Figure | str:
    try:
        return attack_of(name).attack(Evidence.of_run(open_run(folder), shadows=shadows))
    except Inapplicable as reason:
        return str(reason)


def _files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}
