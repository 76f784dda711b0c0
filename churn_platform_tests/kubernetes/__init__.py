"""Kubernetes: the manifests, and the jobs that the run launcher creates."""
