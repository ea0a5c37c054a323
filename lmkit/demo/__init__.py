"""The whole path on packaged Korean data: train, evaluate, export, and answer without torch."""
