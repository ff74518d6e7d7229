"""Benchmarks: one folder, one card, one index schema; simulators and imported data alike."""
