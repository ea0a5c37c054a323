"""Many machines: a file of records, or a server's requests, shared out among them by ray."""
