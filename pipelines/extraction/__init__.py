"""What the extraction stage is made of: what a cell computes, what fitted members learn from, and resumable shards."""
