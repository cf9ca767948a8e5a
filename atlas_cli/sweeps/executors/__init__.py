"""Where the trials of a sweep run: one file an executor, whose name is that of ``atlas sweep --engine``.

It has one function, ``run_all(trials, on_start)``: it does ``sweeps.trial.run_trial`` for every trial, in any order and
as many at a time as it likes, tells ``on_start`` of each that begins and yields each outcome as it ends. It starts no
other after an outcome that ``ends_sweep``; on KeyboardInterrupt it stops what runs and yields what became of it.
"""
