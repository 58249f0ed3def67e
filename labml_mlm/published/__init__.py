"""
# Published encoders

Folders of `save_pretrained` come in; models of ours go out, and the other way round.
"""
