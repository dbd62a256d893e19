"""`python -m aelab` is `ae`."""

from aelab.cli import main

main()
