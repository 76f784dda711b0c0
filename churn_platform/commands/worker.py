"""`churn worker`: run the resident worker in this terminal."""

from churn_platform.commands.terminal import report_errors


def worker() -> None:
    """Run the resident worker, which follows the stream and keeps the retention team's cases, until Ctrl+C.

    'churn up' starts one. Start another on a second machine as a reserve: several are safe.

    Example: churn worker
    """
    from churn_platform import logs
    from churn_platform.settings import load_settings
    from churn_platform.worker import process

    with report_errors():
        settings = load_settings()
        logs.configure(settings.platform.log_format)
        process.run(settings)
