"""Runs that can be started from the command line; not installed with the library."""
