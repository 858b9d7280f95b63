"""The index port and its adapters: FAISS on one machine, OpenSearch on many."""
