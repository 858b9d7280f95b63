"""`python -m processing.embed_items`: run `processing.embedding.job`."""

import sys

from processing.embedding.job import main

if __name__ == "__main__":
    sys.exit(main())
