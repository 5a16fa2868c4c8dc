"""The engines: how each kind of source is read and put back. One module or folder each."""
