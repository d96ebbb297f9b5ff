"""The report of a comparison: its schema, and how it is written as HTML and JUnit."""
