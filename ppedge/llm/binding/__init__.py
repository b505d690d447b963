"""Every call into llama.cpp, in classes named after its own: model, context, sampler.

Pointers stay in this room, and errors leave it as `ModelError`. What may not enter: prompts.
"""
