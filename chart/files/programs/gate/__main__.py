"""Runs the gate: `python -m gate --config FOLDER`."""

import sys

from gate.handler import main

main(sys.argv[1:])
