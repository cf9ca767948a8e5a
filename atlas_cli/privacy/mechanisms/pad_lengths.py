"""Batches are padded to a multiple of so many tokens, so that sizes of messages tell less of the longest text in them.

``data.collate`` pads; ``training.max_length`` stays the longest. The attention mask is sent, so that the server and who
reads the client's messages know every length; who sees sizes alone (encrypted links) does not. Bytes and work grow with
the padding.
"""

from atlas_cli.privacy.mechanisms.contract import BaseMechanism


class Mechanism(BaseMechanism):
    """Pads batches to a multiple of a number of tokens."""

    protects = "numbers of tokens, from who sees the sizes of messages only"
