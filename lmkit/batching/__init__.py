"""Answer many requests at a time: they join and leave the batch that is being written at every token."""
