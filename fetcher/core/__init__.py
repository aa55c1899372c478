"""The pure core: rules that decide. Values in, values out; no clock, files, sockets or logging."""
