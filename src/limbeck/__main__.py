"""``python -m limbeck``: the command, as launchers that start modules want it."""

from limbeck.cli.main import main

main()
