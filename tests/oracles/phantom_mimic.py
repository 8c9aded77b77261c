"""The phantom's release of MIMIC-CXR that the tests read: how many patients it has, and its seed."""

PATIENTS = {"train": 6, "val": 1, "test": 1}  # 12 studies, 1 and 1, and those of CASES in each split
SEED = 3
