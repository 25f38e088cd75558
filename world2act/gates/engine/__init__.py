"""What all gates share: the vocabulary of checks, measurements, the judge (Great Expectations) and its pages."""

import os

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # Great Expectations reads this once, when it is imported
