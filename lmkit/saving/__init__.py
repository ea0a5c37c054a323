"""What is written of a task and outlives the program: its JSON, `task.json` and `lmkit.json`."""
