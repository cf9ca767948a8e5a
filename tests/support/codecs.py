"""Every codec of the package, with the options that differ most; one that is added needs no line here."""

from atlas_cli import discovery
from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.wire.codecs import codec_of

OPTIONS = {
    "int8": [{}, {"block": 5}],
    "int4": [{}, {"block": None}, {"block": 5}],
    "nf4": [{}, {"block": None}, {"block": 5}],
    "top-k": [{}, {"share": 1.0}, {"share": 0.5, "numbers": "bfloat16"}],
    "random-top-k": [{}, {"share": 0.6, "alpha": 0.9}],
    "low-rank": [{}, {"rank": 2, "bits": 8}],
    "vector-quantised": [{}, {"pieces": 3, "levels": 5}],
    "delta": [{}, {"codec": "low-rank", "first": "int8", "first_options": {"block": 5}}],
}
NAMES = discovery.own_names("wire.codecs")


def make(name, **options):
    return codec_of(CodecConfig(codec=name, options=options), "wire.activations")


def cases(wanted=lambda codec: True):
    """Name and options of each codec that is wanted, which sends something else than it is given."""
    every = [(name, options) for name in NAMES if name != "none" for options in OPTIONS.get(name, [{}])]
    return [(name, options) for name, options in every if wanted(make(name, **options))]
