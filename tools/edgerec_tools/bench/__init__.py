"""Speed and size of the runtime against peers that do the same work, run in turns in one process, as ratios.

One file per family of measurements; each family runs in a process of its own, with one thread.
"""
