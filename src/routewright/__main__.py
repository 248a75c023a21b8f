"""The command `routewright`, which `python -m routewright` is too."""

import sys

from routewright import __version__


def run() -> None:
    """Runs the command line; its version needs none of it."""
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return
    from routewright.cli import main

    main.run()


if __name__ == "__main__":
    run()
