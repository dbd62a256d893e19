"""One fit, in this process or in several, and the numbers at its end."""
