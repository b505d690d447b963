"""Attention pooling: a query and a history's keys and values in, one pooled value out.

The native kernel is behind it. What may not enter: text, files and models.
"""
