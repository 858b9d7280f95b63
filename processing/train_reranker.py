"""`python -m processing.train_reranker`: run `processing.ranking.train_job`."""

import sys

from processing.ranking.train_job import main

if __name__ == "__main__":
    sys.exit(main())
