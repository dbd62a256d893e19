"""From words to objects: configs are composed, checked and built here."""
