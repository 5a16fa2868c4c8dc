"""A directory tree as the system shows it: paths, handles, the walk and what filters it."""
