"""An empty package file: one of the suites imports it by path."""
