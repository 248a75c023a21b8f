"""Runs the sections that are named, or all of them."""

import sys

from bench.real import SECTIONS, main

main(sys.argv[1:] or SECTIONS)
