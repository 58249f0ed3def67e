"""
# The output of a run in a notebook

Messages, metrics and how far a run is come in; one output of a cell, which is updated, goes out.

Start with `page`; `frame` is what it shows of the progress of training.
"""
