"""Churn platform."""
