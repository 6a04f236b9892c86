"""Receive in several processes: a parent accepts connections and hands each to a child, which serves it."""
