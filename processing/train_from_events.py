"""`python -m processing.train_from_events`: run `processing.ranking.train_from_events`."""

import sys

from processing.ranking.train_from_events import main

if __name__ == "__main__":
    sys.exit(main())
