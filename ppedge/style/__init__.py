"""How a person writes, whatever about: shapes of words, marks and ends, and rules drawn from them.

All of it acts on logits or chooses between answers. What may not enter: training, and the store.
"""
