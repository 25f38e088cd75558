"""Releases on S3: published from the pipeline, pointed at by channels, and kept when garbage is collected."""
