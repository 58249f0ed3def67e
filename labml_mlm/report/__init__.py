"""
# A report on runs

The folders of runs come in; one page goes out, with curves, samples, items and figures, which needs no app, no network
and no other file. Nothing here imports torch.

Start with `command`; `gather` reads the runs, `page` writes them, and `chart` draws.
"""
