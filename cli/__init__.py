"""The command line of bnfold; the folder ``cli/`` installs as the package ``bnfold_cli``.

One file per command. Importing this package imports neither torch nor any interpreter: each command
imports what it needs when it runs.
"""
