"""
# From arguments to a finished run

Arguments come in; a run, or a message for people goes out. `train` is what a training script or a notebook calls,
`train_files` is `labml-mlm train`; `prepare` and `resume` are what both do first. `session` says whether the process
goes on, and leaves it as it was.

Start with `train`.
"""
