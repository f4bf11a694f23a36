"""What a run keeps of its tiles: checkpoints written, read, and read as they are needed."""
