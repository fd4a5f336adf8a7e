"""Jobs and the command line: parse, make one library call, translate errors."""
