"""
# Sweeps: many runs that differ in some items

Arguments with several values come in; trained runs, and a table of how well they do, go out. Each run is a process of
its own, and nothing here imports torch but `rehearse`, which is one, too.

Start with `runs`, which trains what `plan` finds; `runner` trains one of them.
"""
