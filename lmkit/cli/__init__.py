"""The `lmkit` command: one module for each group of verbs, imported when a verb is called."""
