"""The core that every Gavel process shares: contracts, encoding, indexes, ranking, search."""
