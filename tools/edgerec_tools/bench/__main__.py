"""One family of measurements in this process: FAMILY SCALE FOLDER."""

import sys

from edgerec_tools.bench.families import main

main(sys.argv[1:])
