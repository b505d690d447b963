"""People who do not exist: personas with a marked manner, and training examples made of them.

What may not enter: real people's notes, but to be rewritten.
"""
