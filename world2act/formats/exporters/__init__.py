"""Datasets of ours in, datasets for other software out: LeRobot v3.0, and v2.1 as GR00T-N1.6 reads it."""
