"""Recommends from a checkpoint and a catalogue."""
