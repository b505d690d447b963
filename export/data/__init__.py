"""Questions and histories: LaMP files, their tasks, and a person's notes asked for one at a time.

Add a task here. What may not enter: torch and plugs.
"""
