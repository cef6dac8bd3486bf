"""One module a resource; each endpoint parses, asks `recsys`, and answers."""
