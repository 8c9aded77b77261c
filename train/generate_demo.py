"""The program that writes reports is in the repository root; this says so to whoever starts it here."""

import sys

sys.exit("error: start it in the folder above: cd .. && python generate_demo.py")
