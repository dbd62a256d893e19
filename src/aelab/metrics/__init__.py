"""Groups of metrics of a trained model, one file each."""
