"""The parts of `export.evaluate` and `export.free_prompts`: methods, metrics, records, tables.

Add a method or a metric here. What may not enter: training of plugs.
"""
