"""Contenders: programs that turn the same events into the same rows and published predictions."""
