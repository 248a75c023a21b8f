"""`python -m routewright` is the command `routewright`."""

from routewright.cli.main import run

run()
