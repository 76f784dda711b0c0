"""Contenders: programs that turn the same waiting events into the same rows and the same predictions."""
