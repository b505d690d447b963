"""The GGUF language model: segments of text and soft tokens in; text, logits and scores out.

Add a sampler or a logits processor here. What may not enter: persons, stores and plugs.
"""
