"""What crosses the wire: messages, their bytes, the ledger that counts them, and the recorded messages of an audit."""
