"""A gate on every arrow: an artifact comes in, its Great Expectations results and Data Docs go out."""

import os

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read once, when Great Expectations is imported
