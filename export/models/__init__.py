"""Models in torch: the plug, the text encoder, and the frozen base LLM with its tokenizer.

What may not enter: data files, and how a model is trained.
"""
