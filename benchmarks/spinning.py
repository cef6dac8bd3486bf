"""Limit the spinning of torch's threads when this module is imported, before torch is.

The benchmarks of this project import it first. The peers do not: their environment has none of this project.
"""

from recsys.training.threads import limit_spinning

limit_spinning()
