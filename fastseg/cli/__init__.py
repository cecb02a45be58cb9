"""The command line: one module per command, gathered in app.py."""
