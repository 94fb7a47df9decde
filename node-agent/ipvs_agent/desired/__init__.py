"""From a plan and a host to the rows of every kernel table. Pure."""
