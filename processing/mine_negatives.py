"""`python -m processing.mine_negatives`: run `processing.training.mining`."""

import sys

from processing.training.mining import main

if __name__ == "__main__":
    sys.exit(main())
