"""What is on the disk: run folders and sweeps. Nothing here imports torch."""
