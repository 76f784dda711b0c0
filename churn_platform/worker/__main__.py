"""`python -m churn_platform.worker`: the worker as `churn up` and containers start it, without the command line."""

from churn_platform.settings import load_settings
from churn_platform.worker import process

if __name__ == "__main__":
    process.configure_log()
    process.run(load_settings())
