"""From a run to pictures and films: one picture, what is seen of it, camera paths, files."""
