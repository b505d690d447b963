"""What a plug's folder is made of: graphs as files, and what they are checked by.

What may not enter: training.
"""
