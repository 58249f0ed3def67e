"""
# Export of fine-tuned models

A classifier or a tagger comes in; a folder of Hugging Face's for sequence or token classification goes out, compared
with the model.

Start with `heads`, which class represents a model, then `folder`.
"""
