"""Kafka Streams with XGBoost4J, topic to topic: exactly once, but it writes no rows.

The program is benchmarks/peers/java/StreamsContender.java. This module replaces itself with it.
"""

import os
import sys

from benchmarks.peers import jars
from churn_platform.local.java import find_java


def main() -> None:
    """Run the program with this process's task."""
    java = str(find_java())
    class_path = os.pathsep.join(map(str, jars.installed("streams")))
    # XGBoost's library is loaded from its jar, which Java 25 warns about without this option.
    options = ["-Xmx1g", "--enable-native-access=ALL-UNNAMED"]
    command = [java, *options, "-cp", class_path, "churn.StreamsContender", sys.argv[1]]
    os.execv(java, command)  # noqa: S606  without a shell, on purpose


if __name__ == "__main__":
    main()
