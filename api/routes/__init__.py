"""The endpoints, one module a resource: each parses its request, calls `recsys`, and answers."""
