"""Some of a person's notes as earlier turns of the chat, read by the model once and kept.

Which notes, what each answers, and where the state is kept. What may not enter: sampling.
"""
