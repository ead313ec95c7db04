"""What is done with a data set beside loading it: check, describe, download and export it."""
