"""Fault injection on the whole platform: each fault, and the proof that nothing was lost or counted twice."""
