"""What stops the demonstration."""


class DemoError(Exception):
    """A run failed, or something did not come in time."""
