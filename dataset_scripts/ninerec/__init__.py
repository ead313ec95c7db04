"""NineRec for `datasets`: `load_dataset("ninerec", NAME, data_dir=...)` after `import modeling_transrec`."""
