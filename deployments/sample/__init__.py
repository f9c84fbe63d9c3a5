"""The corpus that ships with the project: technical documentation and labelled near-duplicate licence texts."""
