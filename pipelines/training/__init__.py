"""What the training stage is made of: what it varies, what it minimises, and how it survives a kill."""
