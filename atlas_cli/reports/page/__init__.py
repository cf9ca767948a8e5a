"""report.html: one self-contained page a run, made of its records alone."""
