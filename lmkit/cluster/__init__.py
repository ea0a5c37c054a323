"""Many machines: answer a file on them, or serve from them, by Ray."""
