"""The inputs that determine a run's results besides config and weights: in the manifest, and compared on resuming.

These are the model's config, the tokenizer, the rows and their tokens, and the code of the plug-ins: each by hash, with
what is needed to name a change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from atlas_cli import discovery
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.rows import digest
from atlas_cli.experiment.manifest_facts import data_facts, model_facts
from atlas_cli.federation.federation import Federation
from atlas_cli.hashing import sha256_file, sha256_text
from atlas_cli.models.files.tokenizer_file import tokenizer_files, tokenizer_parts
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.plugin_code import code_of
from atlas_cli.printable import listed
from atlas_cli.tasks.contract import Feature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
_COMPARED = ("model_config", "tokenizer", "examples", "code")  # of packages the code is
_LIBRARIES = ("python", "torch", "transformers", "tokenizers", "numpy")


def inputs(federation: Federation) -> dict[str, Any]:
    """The inputs of a run, for the manifest."""
    tokenizer = federation.tokenizer
    return {
        "model_config": model_config(federation),
        "tokenizer": {"parts": tokenizer_parts(tokenizer), "files": tokenizer_files(tokenizer)},
        "examples": {name: _examples(federation, name) for name in federation.data},
        "code": _code(federation),
        **({"traces": traces} if (traces := _traces(federation.config)) else {}),
        **({"packages": packages} if (packages := _packages(federation)) else {}),
    }


def model_config(federation: Federation) -> dict[str, Any]:
    """The Hugging Face config as JSON."""
    config = {k: v for k, v in federation.base.config.to_dict().items() if k not in _NOT_OF_THE_MODEL}
    found: dict[str, Any] = json.loads(json.dumps(config, default=str, sort_keys=True))
    return found


def changed_code(manifest: Mapping[str, Any], federation: Federation) -> dict[str, dict[str, str | None]]:
    """The files of plug-ins that are not what they were when a manifest was written, each with both hashes."""
    inputs = manifest.get("inputs")
    was = inputs.get("code") if isinstance(inputs, dict) else None
    before, now = was if isinstance(was, dict) else {}, _code(federation)
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return {name: {"before": before.get(name), "now": now.get(name)} for name in names}


def changed_since(manifest: Mapping[str, Any], federation: Federation, *, code: bool = True) -> str | None:
    """What has changed since a manifest was written, and what to do; None if nothing has.

    Args:
        code: look at the files of plug-ins, too.
    """
    before, now = manifest.get("inputs"), inputs(federation)
    if not isinstance(before, dict) or any(
        not isinstance(before.get(part), dict) for part in now if part != "packages"
    ):
        return "the manifest does not say what the run depended on; start the experiment anew"
    alike = _same_libraries(manifest)
    config = _difference(before["model_config"], now["model_config"], common=not alike)
    if config is not None:
        path = Path(federation.base.name).expanduser()
        where = path / "config.json" if path.is_dir() else f"the config of {federation.base.name}"
        return f"{where}: {config}; restore it or start anew"
    if (model := _difference(manifest["model"], model_facts(federation))) is not None:
        return f"the model is not what it was: {model}; restore it or start anew"
    if (tokenizer := changed_tokenizer(manifest, federation.tokenizer)) is not None:
        return tokenizer
    if code and (files := listed(changed_code(manifest, federation))):
        return f"code that computes has changed: {files}; restore it or start anew"
    if (trace := _difference(before.get("traces", {}), now.get("traces", {}))) is not None:
        return f"a trace of a device is not what it was: {trace}; restore its file or start anew"
    data = data_facts(federation)
    for group in data:
        for was, now_ in ((manifest["data"], data), (before["examples"], now["examples"])):
            if (what := _difference(was.get(group), now_[group])) is not None:
                return f"the data of task group {group} is not what it was: {what}; restore it or start anew"
    return None


def changed_tokenizer(manifest: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What has changed in the tokenizer since a manifest was written, and what to do; None if nothing has.

    Another version of the libraries describes one tokenizer in other words; then it is not compared.
    """
    before = (manifest.get("inputs") or {}).get("tokenizer") or {}
    if not _same_libraries(manifest):
        return None
    what = _difference(before.get("parts"), tokenizer_parts(tokenizer))
    if what is None:
        return None
    files = _names(before.get("files"), tokenizer_files(tokenizer))
    changed = f" (changed: {files})" if files else ""
    return f"the tokenizer is not what it was{changed}: {what}; restore it or start anew"


def _same_libraries(manifest: Mapping[str, Any]) -> bool:
    libraries = manifest.get("versions") or {}
    return all(libraries.get(name) == version(name) for name in ("transformers", "tokenizers"))


def other_versions(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A sentence if numerical libraries have other versions than at the start of the run; else None."""
    was, is_ = before.get("versions"), now["versions"]
    if not isinstance(was, dict):
        return None
    changed = [f"{name} {was.get(name)} is now {is_[name]}" for name in _LIBRARIES if was.get(name) != is_[name]]
    return f"{', '.join(changed)}: figures may differ from those of an unbroken run" if changed else None


def _examples(federation: Federation, group: str) -> dict[str, str]:
    """Hashes of the rows as they were read, of who has which, and of what they became as tokens."""
    prepared = federation.data[group]
    features = [*prepared.train.values(), *prepared.local_test.values(), *prepared.scored.values()]
    return {
        "rows": digest(prepared.data.train, *prepared.data.held_out.values()),
        "shards": sha256_text(json.dumps(list(prepared.shards.items()))),
        "tokens": _sha256_features(feature for each in features for feature in each),
    }


def _sha256_features(features: Iterable[Feature]) -> str:
    hasher = hashlib.sha256()
    for feature in features:
        for name in sorted(feature):
            value: Any = feature[name]  # type: ignore[literal-required]
            try:
                packed = array("q", value).tobytes() if isinstance(value, list) else repr(value).encode()
            except (TypeError, OverflowError):  # not a list of whole numbers
                packed = repr(value).encode()
            hasher.update(f"{name} {len(packed)} ".encode() + packed)
        hasher.update(b"\n")
    return hasher.hexdigest()


def _traces(config: ExperimentConfig) -> dict[str, str]:
    """Hashes of the files of traces, by device and figure."""
    given = {
        f"{name}.{figure}": each for name, device in config.devices.items() for figure, each in device.traces.items()
    }
    return {key: sha256_file(Path(each.trace).expanduser()) for key, each in given.items()}


def _code(federation: Federation) -> dict[str, str]:
    """Hashes of the plug-ins' files, and of what is shared in their folders, by path inside the package.

    Of a plug-in of another package all files of that one.
    """
    found: dict[str, str] = {}
    for package, module in _plugins(federation):
        if _is_ours(module):
            path = Path(str(module.__file__))
            for each in (path, *_shared(PACKAGE_FOLDER / package.replace(".", "/"))):
                inside = (
                    each.relative_to(PACKAGE_FOLDER) if each != path else Path(package.replace(".", "/"), path.name)
                )
                found[inside.as_posix()] = sha256_text(each.read_text(encoding="utf-8"))
        else:
            found |= code_of(module.__name__)
    return dict(sorted(found.items()))


def _shared(folder: Path) -> Iterator[Path]:
    """The contract of a kind of plug-in and what its files share: beside them, or in the room around them."""
    if (folder / "contract.py").is_file():
        yield from (folder / "contract.py", *folder.glob("_*.py"))
    else:
        yield from folder.parent.glob("*.py")


def _packages(federation: Federation) -> dict[str, dict[str, Any]]:
    """Other packages that plug-ins of the run come from: version, and the plug-ins, as kind: name."""
    used = {(package, module.__name__) for package, module in _plugins(federation) if not _is_ours(module)}
    found: dict[str, dict[str, Any]] = {}
    for kind in discovery.GROUPS:
        for plugin in discovery.installed(kind):
            if (kind, plugin.module) in used and plugin.package is not None:
                facts = found.setdefault(plugin.package, {"version": plugin.version, "plugins": []})
                facts["plugins"].append(f"{kind}: {plugin.name}")
    return found


def _plugins(federation: Federation) -> list[tuple[str, ModuleType]]:
    """The plug-ins that the run uses: their folder in the package, and their module."""
    data = [group.data for group in federation.config.task_groups.values()]
    corpora = [name for each in data if each.source == "corpus" for name in each.location]
    codecs = {asked.codec for kind in federation.plan.kinds for asked in kind.wire.asked()}
    named = [
        *(("tasks", group.task) for group in federation.config.task_groups.values()),
        *(("data.sources", each.source) for each in data),
        *(("data.corpora", name) for name in corpora),
        *(("privacy.mechanisms", name) for name in federation.protection.record()["mechanisms"]),
        *(("wire.codecs", name) for name in sorted(codecs)),
    ]
    return [
        ("aggregation.methods", sys.modules[type(federation.aggregator.method).__module__]),
        ("models.families", sys.modules[type(federation.base.family).__module__]),
        *((package, discovery.load(package, name)) for package, name in named),
    ]


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.startswith("atlas_cli.")


def _difference(before: Any, now: Mapping[str, Any], common: bool = False) -> str | None:
    """The first key that has another value; ``common``: only of those that both have."""
    if not isinstance(before, dict):
        return "the manifest does not say what it was"
    known: Mapping[str, Any] = json.loads(json.dumps(now))
    for key in sorted(before.keys() & known.keys() if common else before.keys() | known.keys()):
        if key not in before or key not in known or before[key] != known[key]:
            was, is_ = (_shown(each[key]) if key in each else "not there" for each in (before, known))
            return f"{key} was {was}, is {is_}"
    return None


def _names(before: Any, now: Mapping[str, str]) -> str:
    """Names of what differs, at most three."""
    was = before if isinstance(before, dict) else {}
    return listed(name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}... (hash)"
    return text if len(text) <= 60 else f"{text[:57]}..."
