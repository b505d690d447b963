"""The command `ppedge`: arguments to calls, errors to one line and an exit code.

Nothing below this room knows of it. What may not enter: anything that an app would want too.
"""
