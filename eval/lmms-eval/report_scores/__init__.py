"""Scores of generated reports: from what lmms_eval wrote to tables with intervals, floors, and a page to look at."""
