"""The whole platform, broken on purpose: what may fail, and the proof that nothing was lost or counted twice."""
