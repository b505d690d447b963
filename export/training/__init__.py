"""The parts of `export.train`: its options, examples, losses, checkpoints and processes.

What may not enter: evaluation.
"""
