"""Tables of runs: read from files, checked, and reduced to the runs that a law can use."""
