"""What all commands of `export` share: options, files, progress.

What may not enter: anything about persons, models or plugs.
"""
