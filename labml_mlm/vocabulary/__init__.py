"""
# Vocabulary

A tokenizer, perhaps that of a folder, and a text come in; more tokens, and their embeddings, go out.

Start with `adapt`, another vocabulary for the weights of a model. `extend` adds tokens to one, which `more_merges` and
`more_word_pieces` find for BPE and for WordPiece; `embeddings` gives them rows, and takes over those that two
tokenizers have in common. `folder_tokenizer` reads the tokenizer of a folder of Hugging Face's.
"""
