"""Read requests: parameters, bodies, conditions, repetitions."""
