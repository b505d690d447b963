"""Commands for one question each, behind a line of `docs/`; nothing else imports them.

Run them as `python -m export.experiments.NAME`.
"""
