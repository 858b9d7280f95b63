"""`python -m processing.evaluate`: run `processing.evaluation.job`."""

import sys

from processing.evaluation.job import main

if __name__ == "__main__":
    sys.exit(main())
