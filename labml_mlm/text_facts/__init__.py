"""
# What is in a text

Files come in; what is in them, what a tokenizer makes of them, and how long an epoch takes goes out.

Start with `command`. `facts` reads the text once, and counts by `lines`, `characters` and `utf8`; `tokens` tokenizes
it, or a sample; `epoch` measures.
"""
