"""Who is in the cluster and where keys live: ring, placement, membership, topology as clients see it."""
