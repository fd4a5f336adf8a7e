"""rgals: recommenders trained with Ranking-Generalizable losses by alternating least squares."""
