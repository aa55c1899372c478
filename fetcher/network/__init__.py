"""The network edge: the API and the file hosts, the only importers of aiohttp."""
