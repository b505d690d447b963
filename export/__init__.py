"""Training and export of plugs, in torch. The run time (``ppedge/``) never imports this."""
