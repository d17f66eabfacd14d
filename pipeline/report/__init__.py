"""The report and the review page."""
