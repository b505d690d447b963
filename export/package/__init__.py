"""What a plug's folder is checked by, beside the graphs that `export.onnx` writes.

What may not enter: training.
"""
