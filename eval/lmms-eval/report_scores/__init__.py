"""Scores of generated reports: from what lmms_eval wrote to tables with intervals, baselines, and a page to look at."""
