"""How a person writes, whatever about: shapes of words, marks and ends, and rules drawn from them.

Knows notes and the texts of tokens; nothing of plugs, of attention, or of the disk.
"""
