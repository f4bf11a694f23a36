"""The scene file: what may be said, how it is read, what is said of mistakes."""
