"""
# The command line

Arguments come in; a run, an answer, or a message for people goes out. `main` and `commands` are `labml-mlm`; `train` is
what a training script calls, `prepare` and `resume` what it does first.

Start with `train`.
"""
