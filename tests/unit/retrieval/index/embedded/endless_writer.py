"""A process that writes to the live embedded index until it is killed, and prints the number of every acknowledged batch.

endless_writer.py ROOT FIRST    a batch N is 20 new lots from N on, of which the first is deleted again
"""

import sys
from pathlib import Path

from embedded_lots import lot

from retrieval.contracts.documents import Deletion
from retrieval.index.embedded.store import EmbeddedStore

index = EmbeddedStore(Path(sys.argv[1])).live()
number = int(sys.argv[2])
print("ready", flush=True)
while True:
    report = index.upsert([*(lot(number + i) for i in range(20)), Deletion(f"lot-{number:05}", 2)])
    assert (report.indexed, report.deleted) == (20, 1)
    print(number, flush=True)
    number += 20
    if number % 200 == 0:
        index.prepare()  # be killed while snapshots are written, too
