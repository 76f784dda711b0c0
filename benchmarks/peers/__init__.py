"""What the other stream processors need: locked packages, locked jars and the Java sources of contenders."""
