"""The planted defects, by area, and the test that each is found where the table says."""
