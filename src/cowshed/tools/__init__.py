"""The hands: host tools, files, formats. The only starter of processes."""
