"""Work pools, profiles and the sample corpus that ships with the project."""
