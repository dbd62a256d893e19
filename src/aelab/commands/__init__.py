"""The verbs of `ae`, one file each. Imported before the words are composed, so nothing heavy is imported at the top."""
