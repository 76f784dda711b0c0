"""Simulated traffic: the producer of customer events, and the demonstration of the whole platform.

It imports no Dagster: the demonstration launches jobs through the interface in jobs.py.
"""
