"""Fetch a released policy from S3, every byte verified."""
