"""The console command `transrec`: one module for each of its commands, and what their options have in common."""
