"""Collaborative filtering as a service: ratings in, embeddings trained, lists out.

The library knows neither the HTTP service (`api`) nor the command line (`jobs`).
"""

__version__ = "0.1.0"
