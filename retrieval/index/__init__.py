"""The index port and its adapters: an embedded index of SQLite and FAISS on one machine, OpenSearch on one or many."""
