"""Notes, and the readers that turn files into notes.

Add an importer here. What enters: files and text. What may not: vectors, models, the store.
"""
