"""Report: what a run's folder holds becomes one HTML file. `curves` reads the figures, `plots` draws them."""
