"""Estimate the machines that a number of studies needs, by simulation of a day."""
