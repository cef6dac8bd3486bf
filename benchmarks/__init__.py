from recsys.training.threads import limit_spinning

# Every benchmark starts here, before torch is imported.
limit_spinning()
