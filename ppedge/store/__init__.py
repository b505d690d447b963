"""One person's notes on disk: text in SQLite, keys and values in row files, safe to interrupt.

Forgetting and syncing are here. What may not enter: models, plugs, and how vectors are made.
"""
