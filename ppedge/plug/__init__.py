"""The plug: graphs that turn notes into vectors, and pooled vectors into soft tokens.

It is read as hostile input. What may not enter: how a plug is trained, and the command line.
"""
