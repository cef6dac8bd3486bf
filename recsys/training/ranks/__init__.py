"""Training over ranks: processes that share one training, on one machine or many, by `torch.distributed`."""
