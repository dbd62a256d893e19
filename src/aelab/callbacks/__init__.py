"""What happens beside the training steps: logging, checkpoints, pictures, early ends."""
