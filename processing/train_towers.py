"""`python -m processing.train_towers`: run `processing.training.towers_job`."""

import sys

from processing.training.towers_job import main

if __name__ == "__main__":
    sys.exit(main())
