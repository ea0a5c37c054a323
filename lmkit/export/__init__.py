"""Export a trained model as a bundle, and refuse one that would answer differently."""
