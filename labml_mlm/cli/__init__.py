"""
# The command line

Arguments come in; an answer, or a message for people goes out. `main` is `labml-mlm`; other files are its commands, but
for those on runs alone (`run_commands`) and `labml-mlm train` (`launch`).

Start with `main`.
"""
