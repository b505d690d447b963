"""Some of a person's notes as earlier turns of the conversation, so that a model goes on likewise.

Knows notes, chat templates and tokens; nothing of plugs, of sampling, or of the disk.
"""
