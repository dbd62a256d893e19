"""What `ae visualize`, `ae explore` and `ae report` draw."""
