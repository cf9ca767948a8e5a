"""The tiny models of tests/conftest.py for test modules: ``conftest`` is not a name that can be imported safely,
because every folder of tests may have one."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("tests_conftest", Path(__file__).parents[1] / "conftest.py")
_root = module_from_spec(_spec)
_spec.loader.exec_module(_root)

CAUSAL, CONFIGS, SPECIAL, VOCABULARY, WORDS = _root.CAUSAL, _root.CONFIGS, _root.SPECIAL, _root.VOCABULARY, _root.WORDS
tiny_model = _root.tiny_model
